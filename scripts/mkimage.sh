#!/usr/bin/env bash
# A flash image: boot loader, kernel, and a read-only system twice, with a data partition that grows
# at the first start. No root, no mounts; the same commit gives the same bytes.
#   scripts/mkimage.sh BOARD          arm64 (generic, QEMU), rpi3 (Raspberry Pi 3, 4, Zero 2)
#
#   VERSION, COMMIT, SOURCE_DATE_EPOCH   as the Makefile sets them
#   SIZE_MB                         pad the image to this size
#   OUT                             folder, default dist/image
# Needs Go, fdisk, mtools, dosfstools, squashfs-tools, e2fsprogs and u-boot-tools; for rpi3 also
# Debian's u-boot-rpi, which it fetches with apt for the other architecture.
#
# The boot partition is where the owner puts, before the first start: network.txt, tidegate.toml,
# root.tideroot, and bundles. Write the image with: dd if=IMAGE of=/dev/sdX bs=4M conv=fsync
set -euo pipefail
cd "$(dirname "$0")/.."
board=${1:-arm64}
: "${VERSION:=$(git describe --tags --always --dirty 2>/dev/null || echo dev)}"
: "${COMMIT:=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export VERSION COMMIT SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C
boot=64 slot=96 data=128 kernel_at=64 # MiB; kernel_at: within a slot

for c in sfdisk mformat mcopy mksquashfs mke2fs mkimage; do
	command -v $c >/dev/null || { echo "mkimage.sh: no $c: apt install fdisk mtools dosfstools squashfs-tools e2fsprogs u-boot-tools" >&2; exit 1; }
done
dir() { (cd packaging/image && go mod download "$1" && go list -m -f '{{.Dir}}' "$1"); }
case $board in
arm64) kernel=$(dir github.com/gokrazy/kernel.arm64) ;;
rpi3) kernel=$(dir github.com/gokrazy/kernel.rpi) ;;
*) echo "mkimage.sh: unknown board $board: arm64, rpi3" >&2; exit 2 ;;
esac

t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
out=${OUT:-dist/image}
mkdir -p $out
image=$out/tidegate-$board.img

# The system
sys=$t/system
mkdir -p "$sys"/{boot,data,dev,proc,run,sys,tmp,usr/bin,usr/lib/tideinit,usr/share/licences,etc}
ldflags="-s -w -buildid= -X tidegate/platform/buildinfo.version=$VERSION -X tidegate/platform/buildinfo.commit=$COMMIT -X tidegate/platform/buildinfo.date=$SOURCE_DATE_EPOCH"
for p in tidegate tideinit; do
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$t/$p" ./cmd/$p
done
install -m 755 "$t/tideinit" "$sys/init"
install -m 755 "$t/tidegate" "$sys/usr/bin/tidegate"
ln -s /run/resolv.conf "$sys/etc/resolv.conf"
echo '127.0.0.1 localhost' >"$sys/etc/hosts"
printf 'root:x:0:0::/:/bin/false\ntidegate:x:500:500::/:/bin/false\n' >"$sys/etc/passwd"
printf 'root:x:0:\ntidegate:x:500:\n' >"$sys/etc/group"
scripts/licences.sh "$t/tidegate" >"$sys/usr/share/licences/tidegate.txt"
cp LICENSE "$sys/usr/share/licences/LICENSE"
cp "$kernel/LICENSE.linux" "$sys/usr/share/licences/linux.txt"
sed "s#@KERNEL@#$(basename "$(dirname "$kernel")")/$(basename "$kernel")#" packaging/image/source-offer.txt >"$sys/usr/share/licences/source-offer.txt"

# The data partition, empty; the system keeps a copy for a factory reset.
truncate -s ${data}M "$t/data"
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 -L tide-data -U 74696465-6761-7465-0000-000000000004 \
	-E hash_seed=74696465-6761-7465-0000-000000000005,lazy_itable_init=0,resize=$((64 << 18)) "$t/data"
gzip -9nc "$t/data" >"$sys/usr/lib/tideinit/data.img.gz"
find "$sys" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# The time stamps are set above; mksquashfs takes the environment's as an error beside its own option.
env -u SOURCE_DATE_EPOCH mksquashfs "$sys" "$t/sq" -comp gzip -noappend -quiet -no-progress -all-root -no-xattrs \
	-mkfs-time "$SOURCE_DATE_EPOCH" -p 'dev/console c 600 0 0 5 1' >/dev/null
gzip -6nc "$kernel/vmlinuz" >"$t/kernel"

CGO_ENABLED=0 go build -o "$t/bootstate" ./scripts/bootstate
[ "$(stat -c %s "$t/sq")" -le $((kernel_at << 20)) ] || { echo "mkimage.sh: the system is larger than $kernel_at MiB" >&2; exit 1; }
[ "$(stat -c %s "$t/kernel")" -lt $(((slot - kernel_at - 1) << 20)) ] || { echo "mkimage.sh: the kernel is too large" >&2; exit 1; }
truncate -s ${slot}M "$t/slot"
dd if="$t/sq" of="$t/slot" bs=1M conv=notrunc status=none
CGO_ENABLED=0 go build -o "$t/host" ./cmd/tidegate
form=$("$t/host" version --json | sed -n 's/.*"state_schema": *\([0-9]*\).*/\1/p')
"$t/bootstate" -record ZSECT="$(printf %x $((($(stat -c %s "$t/kernel") + 511) / 512)))" BOARD="$board" VERSION="${VERSION#v}" STATE="$form" | dd of="$t/slot" bs=1M seek=$kernel_at conv=notrunc status=none
dd if="$t/kernel" of="$t/slot" bs=4096 seek=$(((kernel_at << 8) + 1)) conv=notrunc status=none

# The boot partition
mkdir "$t/boot"
mkimage -A arm64 -T script -n tidegate -d packaging/image/boot.cmd "$t/boot/boot.scr" >/dev/null
cp packaging/image/README.txt "$t/boot/README.txt"
if [ $board = rpi3 ]; then
	firmware=$(dir github.com/gokrazy/firmware)
	cp "$firmware"/{bootcode.bin,start.elf,fixup.dat,start4.elf,fixup4.dat,LICENSE.broadcom} "$t/boot/"
	cp "$kernel"/bcm27*.dtb "$t/boot/"
	cp packaging/image/config.txt "$t/boot/config.txt"
	scripts/image/u-boot-rpi.sh "$t/boot/u-boot.bin"
fi
find "$t/boot" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
truncate -s ${boot}M "$t/fat"
mformat -i "$t/fat" -F -N 74696465 -v TIDEGATE ::
find "$t/boot" -mindepth 1 -maxdepth 1 | sort | while read -r f; do mcopy -m -i "$t/fat" "$f" ::; done

rm -f $image
truncate -s "${SIZE_MB:-$((1 + boot + 2 * slot + data))}M" $image
sfdisk -q --label dos $image <<S
label-id: 0x74696465
start=2048, size=${boot}MiB, type=c
start=$(((1 + boot) * 2048)), size=${slot}MiB, type=83
start=$(((1 + boot + slot) * 2048)), size=${slot}MiB, type=83
start=$(((1 + boot + 2 * slot) * 2048)), size=${data}MiB, type=83
S
put() { dd if="$1" of=$image bs=1M seek="$2" conv=notrunc,sparse status=none; }
put "$t/fat" 1
put "$t/slot" $((1 + boot))
put "$t/slot" $((1 + boot + slot))
put "$t/data" $((1 + boot + 2 * slot))
"$t/bootstate" $image A A 0
echo "$image: $(($(stat -c %s $image) >> 20)) MiB, $(($(du -k $image | cut -f1) >> 10)) MiB of them used"
