#!/usr/bin/env bash
# Power cuts on a simulated disk: FUSE file, loop device, ext4, the real program under load.
#   scripts/crash.sh              a few cuts
#   TIDEGATE_CUTS=400 scripts/crash.sh
set -euo pipefail
cd "$(dirname "$0")/crash"
if [ "$(id -u)" != 0 ]; then echo "skipped: crash: needs root"; exit 0; fi
if ! command -v mkfs.ext4 >/dev/null; then
	apt-get update -qq && apt-get install -y -qq e2fsprogs >/dev/null
fi
exec go test -count=1 -timeout 30m -v ./...
