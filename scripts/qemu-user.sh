#!/usr/bin/env bash
# The tests of what must be right on 32 bit and on ARM, on emulated processors: an ARMv6 that ends a
# program built for ARMv7, an ARMv7, and an arm64.
#   scripts/qemu-user.sh [PACKAGE…]      default: ./store/... ./policy/... ./sync/...
#
#   TARGETS   default "armv6 armv7"; also arm64
# Needs root and qemu-user-static, which it installs. Tests that start themselves as another process
# need the kernel to know the foreign format: they run in a user namespace with a table of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "skipped: qemu-user: $*"; exit 0; }
have() { local c; for c; do command -v "$c" >/dev/null || return 1; done; }
if ! have qemu-arm-static qemu-aarch64-static; then
	[ "$(id -u)" = 0 ] || skip "needs qemu-user-static"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-user-static >/dev/null || skip "qemu-user-static cannot be installed"
fi
[ "$(id -u)" = 0 ] || skip "needs root"
scripts/qemu-user/binfmt.py true 2>/dev/null || skip "the kernel has no tables of formats for user namespaces"
packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(./store/... ./policy/... ./sync/...)
failed=()
for target in ${TARGETS:-armv6 armv7}; do
	case $target in
	armv6) arch=arm arm=6 cpu=arm1176 ;;
	armv7) arch=arm arm=7 cpu=cortex-a7 ;;
	arm64) arch=arm64 arm='' cpu=cortex-a53 ;;
	*) echo "qemu-user.sh: unknown target $target: armv6 armv7 arm64" >&2; exit 2 ;;
	esac
	echo "--- $target"
	t0=$SECONDS
	# The compiler and go itself are of this machine: only the tests are emulated.
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm QEMU_CPU=$cpu scripts/qemu-user/binfmt.py \
		go test -short -vet=off -timeout 20m "${packages[@]}" | grep -v 'no test files' || failed+=("$target")
	echo "--- $target: $((SECONDS - t0)) s"
done
[ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]}"; exit 1; }
