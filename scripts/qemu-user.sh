#!/usr/bin/env bash
# The tests of what must be right on 32 bit and on ARM, on emulated processors: an ARMv6 that ends a
# program built for ARMv7, an ARMv7, and an arm64.
#   scripts/qemu-user.sh [PACKAGE…]      default: ./store/... ./policy/... ./sync/...
#
#   TARGETS   default "armv6 armv7 arm64"
# Needs qemu-user-static, which it installs as root. Tests that start themselves as another process
# need the kernel to know the foreign format: they run in a user namespace with a table of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "skipped: qemu-user: $*"; exit 0; }
if ! command -v qemu-arm-static qemu-aarch64-static >/dev/null; then
	[ "$(id -u)" = 0 ] || skip "needs qemu-user-static"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-user-static >/dev/null || skip "qemu-user-static cannot be installed"
fi
packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(./store/... ./policy/... ./sync/...)
failed=()
for target in ${TARGETS:-armv6 armv7 arm64}; do
	case $target in
	armv6) arch=arm arm=6 run="qemu-arm-static -cpu arm1176" ;;
	armv7) arch=arm arm=7 run="qemu-arm-static -cpu cortex-a7" ;;
	arm64) arch=arm64 arm='' run="qemu-aarch64-static -cpu cortex-a53" ;;
	*) echo "qemu-user.sh: unknown target $target: armv6 armv7 arm64" >&2; exit 2 ;;
	esac
	echo "--- $target"
	t0=$SECONDS
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm go test -short -vet=off -timeout 20m -exec "$run" "${packages[@]}" | grep -v 'no test files' || failed+=("$target")
	echo "--- $target: $((SECONDS - t0)) s"
done
[ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]}"; exit 1; }
