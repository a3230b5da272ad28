#!/usr/bin/env bash
# A flash image: boot loader, kernel, and a read-only system twice, with a data partition that grows
# at the first start. No root, no mounts; the same commit gives the same bytes.
#   scripts/mkimage.sh BOARD
#     arm64      any 64-bit board whose firmware is U-Boot; QEMU's "virt"
#     rpi3       Raspberry Pi 3, 4 and Zero 2 (also: rpi4, rpizero2: it is the same image)
#     armv7      32-bit boards whose firmware is U-Boot; QEMU's "virt"
#     armv6      Raspberry Pi 1, Zero and Zero W
#
#   VERSION, COMMIT, SOURCE_DATE_EPOCH   as the Makefile sets them
#   SIZE_MB                         pad the image to this size
#   OUT                             folder, default dist/image
#   KERNEL_ARGS                     further words of the kernel's command line
# Needs Go, fdisk, mtools, dosfstools, squashfs-tools, e2fsprogs and u-boot-tools. What is not in Go
# modules it fetches with apt, for the other processor: Debian's U-Boot for the Raspberry Pi; for 32 bit
# Debian's kernel, for which it also needs kmod and python3.
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
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
arch=arm64 arm= # of the programs, as Go calls it
case $board in
arm64) kernel=$(dir github.com/gokrazy/kernel.arm64) ;;
rpi3 | rpi4 | rpizero2) board=rpi3 kernel=$(dir github.com/gokrazy/kernel.rpi) ;;
armv7)
	arch=arm arm=7
	modules="virtio_mmio virtio_pci virtio_blk virtio_net mmc_block sunxi_mmc sdhci_esdhc_imx omap_hsmmc dw_mmc_rockchip sdhci_omap
		ti_cpsw fec dwmac_sun8i dwmac_rk ehci_platform ohci_platform xhci_pci usb_storage sunxi_wdt omap_wdt imx2_wdt dw_wdt
		squashfs ext4 crc32c_generic vfat nls_cp437 nls_ascii exfat isofs"
	scripts/image/debian.sh armhf "$t/debian" linux-image-armmp
	;;
armv6)
	arch=arm arm=6
	modules="mmc_block sdhci_iproc usb_storage smsc95xx lan78xx cdc_ether rndis_host squashfs ext4 crc32c_generic vfat nls_cp437 nls_ascii exfat isofs"
	scripts/image/debian.sh armel "$t/debian" linux-image-rpi u-boot-rpi
	;;
*) echo "mkimage.sh: unknown board $board: arm64, rpi3, armv7, armv6" >&2; exit 2 ;;
esac

out=${OUT:-dist/image}
mkdir -p $out
image=$out/tidegate-$board.img

# The system
sys=$t/system
mkdir -p "$sys"/{boot,data,dev,proc,run,sys,tmp,usr/bin,usr/lib/tideinit,usr/share/licences,etc}
ldflags="-s -w -buildid= -X tidegate/platform/buildinfo.version=$VERSION -X tidegate/platform/buildinfo.commit=$COMMIT -X tidegate/platform/buildinfo.date=$SOURCE_DATE_EPOCH"
for p in tidegate tideinit; do
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$t/$p" ./cmd/$p
done
install -m 755 "$t/tideinit" "$sys/init"
install -m 755 "$t/tidegate" "$sys/usr/bin/tidegate"
ln -s /run/resolv.conf "$sys/etc/resolv.conf"
echo '127.0.0.1 localhost' >"$sys/etc/hosts"
printf 'root:x:0:0::/:/bin/false\ntidegate:x:500:500::/:/bin/false\n' >"$sys/etc/passwd"
printf 'root:x:0:\ntidegate:x:500:\n' >"$sys/etc/group"
scripts/licences.sh "$t/tidegate" >"$sys/usr/share/licences/tidegate.txt"
cp LICENSE "$sys/usr/share/licences/LICENSE"
if [ $arch = arm64 ]; then
	cp "$kernel/LICENSE.linux" "$sys/usr/share/licences/linux.txt"
	source="the Go module $(basename "$(dirname "$kernel")")/$(basename "$kernel"), whose folder _build names its source and patches"
else
	cat "$t"/debian/usr/share/doc/linux-image-*/copyright /usr/share/common-licenses/GPL-2 >"$sys/usr/share/licences/linux.txt"
	source="the Debian packages $(paste -sd ' ' "$t/debian/packages"), whose source packages Debian keeps"
fi
sed "s#@KERNEL@#$source#" packaging/image/source-offer.txt >"$sys/usr/share/licences/source-offer.txt"

# The data partition, empty; the system keeps a copy for a factory reset.
truncate -s ${data}M "$t/data"
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 -L tide-data -U 74696465-6761-7465-0000-000000000004 \
	-E hash_seed=74696465-6761-7465-0000-000000000005,lazy_itable_init=0,resize=$((64 << 18)) "$t/data"
gzip -9nc "$t/data" >"$sys/usr/lib/tideinit/data.img.gz"
find "$sys" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# The time stamps are set above; mksquashfs takes the environment's as an error beside its own option.
env -u SOURCE_DATE_EPOCH mksquashfs "$sys" "$t/sq" -comp gzip -noappend -quiet -no-progress -all-root -no-xattrs \
	-mkfs-time "$SOURCE_DATE_EPOCH" -all-time "$SOURCE_DATE_EPOCH" -p 'dev/console c 600 0 0 5 1' >/dev/null

# The kernel; on 32 bit behind an initramfs of its modules and the same first process.
sectors() { echo $((($(stat -c %s "$1") + 511) / 512)); }
split=()
if [ $arch = arm64 ]; then
	gzip -6nc "$kernel/vmlinuz" >"$t/kernel"
else
	release=$(ls "$t/debian/lib/modules")
	depmod -b "$t/debian" "$release"
	mkdir -p "$t/initramfs/m"
	for m in $modules; do modprobe -d "$t/debian" -S "$release" --show-depends "$m" 2>/dev/null || true; done |
		awk '$1=="insmod" && !seen[$2]++ {print $2}' | while read -r ko; do
		cp "$ko" "$t/initramfs/m/"
		echo "/m/$(basename "$ko")" >>"$t/initramfs/modules"
	done
	mkdir "$t/initramfs"/{dev,proc,run,sys,tmp}
	install -m 755 "$t/tideinit" "$t/initramfs/init"
	scripts/image/cpio.py "$t/initramfs" | gzip -9n >"$t/kernel"
	split=(ISECT="$(printf %x "$(sectors "$t/kernel")")")
	truncate -s $(($(sectors "$t/kernel") * 512)) "$t/kernel"
	cat "$t/debian/boot/vmlinuz-$release" >>"$t/kernel"
fi

CGO_ENABLED=0 go build -o "$t/bootstate" ./scripts/bootstate
[ "$(stat -c %s "$t/sq")" -le $((kernel_at << 20)) ] || { echo "mkimage.sh: the system is larger than $kernel_at MiB" >&2; exit 1; }
[ "$(stat -c %s "$t/kernel")" -lt $(((slot - kernel_at - 1) << 20)) ] || { echo "mkimage.sh: the kernel is too large" >&2; exit 1; }
truncate -s ${slot}M "$t/slot"
dd if="$t/sq" of="$t/slot" bs=1M conv=notrunc status=none
CGO_ENABLED=0 go build -o "$t/host" ./cmd/tidegate
form=$("$t/host" version --json | sed -n 's/.*"state_schema": *\([0-9]*\).*/\1/p')
"$t/bootstate" -record ZSECT="$(printf %x "$(sectors "$t/kernel")")" "${split[@]}" BOARD="$board" VERSION="${VERSION#v}" STATE="$form" | dd of="$t/slot" bs=1M seek=$kernel_at conv=notrunc status=none
dd if="$t/kernel" of="$t/slot" bs=4096 seek=$(((kernel_at << 8) + 1)) conv=notrunc status=none

# The boot partition
mkdir "$t/boot"
sed "s/@ARGS@/${KERNEL_ARGS:-}/" packaging/image/boot.cmd >"$t/boot.cmd"
mkimage -A $arch -T script -n tidegate -d "$t/boot.cmd" "$t/boot/boot.scr" >/dev/null
cp packaging/image/README.txt "$t/boot/README.txt"
case $board in
rpi3 | armv6)
	firmware=$(dir github.com/gokrazy/firmware)
	cp "$firmware"/{bootcode.bin,start.elf,fixup.dat,LICENSE.broadcom} "$t/boot/"
	cp packaging/image/config-$board.txt "$t/boot/config.txt"
	;;
esac
case $board in
rpi3)
	cp "$firmware"/{start4.elf,fixup4.dat} "$kernel"/bcm27*.dtb "$t/boot/"
	scripts/image/debian.sh arm64 "$t/u-boot" u-boot-rpi
	cp "$t/u-boot/usr/lib/u-boot/rpi_arm64/u-boot.bin" "$t/boot/"
	;;
armv6)
	cp "$t"/debian/usr/lib/linux-image-*/bcm2835-rpi-*.dtb "$t/boot/"
	cp "$t/debian/usr/lib/u-boot/rpi/u-boot.bin" "$t/boot/u-boot-1.bin"
	cp "$t/debian/usr/lib/u-boot/rpi_0_w/u-boot.bin" "$t/boot/u-boot-0.bin"
	;;
armv7) (cd "$t"/debian/usr/lib/linux-image-* && mkdir -p "$t/boot/dtb" && cp ./*.dtb "$t/boot/dtb/") ;;
esac
find "$t/boot" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
truncate -s ${boot}M "$t/fat"
mformat -i "$t/fat" -F -N 74696465 -v TIDEGATE ::
find "$t/boot" -mindepth 1 -maxdepth 1 | sort | while read -r f; do mcopy -s -m -i "$t/fat" "$f" ::; done

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
