#!/bin/sh
# Builds both sides and compares the gateway with nginx and HAProxy where they are installed
# (apt-get install nginx haproxy). Options go to the program: -full for everything.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p scripts/bench/out
strip='-s -w'
case " $* " in *profile*) strip= ;; esac
CGO_ENABLED=0 go build -trimpath -ldflags "$strip" -o scripts/bench/out/tidegate ./cmd/tidegate
CGO_ENABLED=0 go build -o scripts/bench/out/bench ./scripts/bench
for p in nginx haproxy; do
	command -v $p >/dev/null 2>&1 || [ -x /usr/sbin/$p ] || echo "bench: $p is not installed; measuring without it" >&2
done
# The gateway has core 0; generator and upstream share the last one.
exec taskset -c "$(($(nproc --all) - 1))" scripts/bench/out/bench -tidegate scripts/bench/out/tidegate "$@"
