#!/bin/sh
# Keeps a device at 70 % load for 20 minutes, or as long as the argument says (such as 5m), while
# bundles are activated, by command and from sticks, and recorded calls go up over MQTT (where
# mosquitto is installed) and are exported; fails if memory, files or goroutines grow.
exec "$(dirname "$0")/run.sh" -only soak -soak "${1:-20m}"
