#!/usr/bin/env bash
# The flash images, booted in QEMU and used.
#   scripts/image.sh [PART…]
#     serve      the arm64 image boots, serves, takes its trust root and a bundle from the card
#     cuts       takes a bundle and a new system from sticks that are plugged in, all of it under power
#                cuts at random moments, which are replayed from the log of what was written
#     fallback   falls back from systems that do not come up
#     sticks     takes no harm from sticks that are not as they should be
#     boards     the images for armv7, armv6 and the Raspberry Pi 3, as far as QEMU has such boards
#   Without a part: all of them. "quick" is serve.
#
#   POINTS     power cuts, default 24
# Needs root for the cuts, qemu-system-arm, u-boot-qemu and the tools of scripts/mkimage.sh, which it
# installs. Its ports are on 127.0.0.1 only, and its machines end with it.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "skipped: image: $*"; exit 0; }
tools=(qemu-system-aarch64 mkimage mksquashfs mcopy sfdisk python3 curl)
have() { local c; for c; do command -v "$c" >/dev/null || return 1; done; }
if ! have "${tools[@]}" || [ ! -e /usr/lib/u-boot/qemu_arm64/u-boot.bin ]; then
	[ "$(id -u)" = 0 ] || skip "needs qemu-system-arm u-boot-qemu u-boot-tools squashfs-tools mtools dosfstools fdisk"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-arm ipxe-qemu \
		u-boot-qemu u-boot-tools squashfs-tools mtools dosfstools fdisk e2fsprogs kmod python3 curl >/dev/null || skip "QEMU cannot be installed"
fi
. scripts/image/lib.sh
. scripts/image/arm64.sh
. scripts/image/boards.sh
(cd packaging/image && go mod download github.com/gokrazy/kernel.arm64) || skip "the kernel, a Go module, cannot be fetched"
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(serve cuts fallback sticks boards)
[ "${parts[0]}" != quick ] || parts=(serve)
[[ " serve boards " == *" ${parts[0]} "* ]] || parts=(serve "${parts[@]}") # the others go on from it
prepare
for p in "${parts[@]}"; do
	[ "$p" != cuts ] || [ "$(id -u)" = 0 ] || { echo "skipped: image: cuts: needs root to mount"; continue; }
	"part_$p"
done
