# Part of scripts/image.sh: the images of the other boards. What QEMU has no board for is built and looked
# into; what it emulates wrongly is left out of the kernel by its command line.

# slot_files IMAGE: kernel and initramfs of slot A, in $w/kernel and $w/initrd; its record on standard output.
slot_files() {
	python3 - "$1" "$w" <<'P'
import sys, zlib
image, folder = sys.argv[1:]
f = open(image, "rb")
f.seek((1 + 64 + 64) << 20)
v = dict(x.split(b"=") for x in f.read(512)[4:].split(b"\0\0")[0].split(b"\0"))
f.seek(((1 + 64 + 64) << 20) + 4096)
data, cut = f.read(int(v[b"ZSECT"], 16) * 512), int(v.get(b"ISECT", b"0"), 16) * 512
open(folder + "/initrd", "wb").write(data[:cut])
kernel = data[cut:]
if kernel[:2] == b"\x1f\x8b":
    kernel = zlib.decompressobj(31).decompress(kernel)  # zeros stand behind it
open(folder + "/kernel", "wb").write(kernel)
print(" ".join(k.decode() + "=" + v[k].decode() for k in sorted(v)))
P
}

# looked_into BOARD: what an image must hold whatever the board.
looked_into() {
	local image=$w/card.img files
	[ "$("$w/bootstate" "$image")" = "slot A, good A, tries 0, given up none" ] || fail "$1: boot state"
	[ "$("$w/bootstate" -slot "$image" A)" = "$("$w/bootstate" -slot "$image" B)" ] || fail "$1: the slots differ"
	quietly unsquashfs -q -n -d "$w/$1" -o $((65 << 20)) "$image"
	grep -q 'GNU GENERAL PUBLIC LICENSE' "$w/$1/usr/share/licences/linux.txt" || grep -q 'GPL-2.0' "$w/$1/usr/share/licences/linux.txt" || fail "$1: no licence of the kernel"
	grep -q 'complete corresponding source' "$w/$1/usr/share/licences/source-offer.txt" || fail "$1: no source offer"
	files=$(mdir -b -i "$image@@1M" ::)
	for f in boot.scr README.txt "${@:2}"; do grep -qx "::/$f" <<<"$files" || fail "$1: no $f on the boot partition"; done
	[ -z "$(find "$w/$1" -name '*ssh*' -o -name 'shadow*')" ] || fail "$1: a way in"
	ok "$1: built; both slots, licences and source offer; on the boot partition: $(wc -w <<<"$files") files"
}

# pi MACHINE KERNEL-ARGS OPTIONS…: boots the kernel of slot A directly, as U-Boot leaves QEMU's USB and clocks
# in a state that Linux cannot use.
pi() {
	local qemu=$1 board=$2 words=$3; shift 3
	t0=$SECONDS from=1
	: >"$w/console"
	"$qemu" -M "$board" -display none -monitor none -serial "file:$w/console" -drive "if=sd,file=$w/card.img,format=raw" \
		-device usb-net,netdev=net -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:9090" \
		-append "$words root=PARTUUID=74696465-02 rootfstype=squashfs ro rootwait init=/init panic=5 quiet cgroup_enable=memory tide.slot=A tide.want=A tide.back=none" \
		"$@" >"$w/qemu.log" 2>&1 &
	machine=$!
}

served() { # BOARD
	saw 400 'tideinit: ready'
	answers /health 200
	saw 200 'provisioned .*bundle 1 of .*on trial'
	answers /meters/1.0/status 200
	answers /meters/1.0/readings 401
	ok "$1: boots, takes its root and bundle 1, serves"
	power_cut
}

part_boards() {
	local off=initcall_blacklist=bcm2835_pm_driver_init,bcm2835_wdt_driver_init,bcm2835_power_driver_init
	# 32 bit with a boot loader of QEMU's own.
	card armv7
	looked_into armv7
	power_on armv7
	served armv7
	power_on armv7
	saw 400 'tideinit: ready'
	answers /meters/1.0/status 200
	ok "armv7: after a power cut it serves again"
	power_cut

	card armv6
	looked_into armv6 bootcode.bin start.elf fixup.dat config.txt u-boot-0.bin u-boot-1.bin bcm2835-rpi-zero.dtb bcm2835-rpi-zero-w.dtb bcm2835-rpi-b.dtb
	loads armv6 qemu-system-arm raspi0 -bios "$w/u-boot-0.bin"
	slot_files "$w/card.img" >/dev/null
	pi qemu-system-arm raspi0 "console=ttyAMA0,115200 $off" -kernel "$w/kernel" -initrd "$w/initrd" -dtb "$w/bcm2835-rpi-zero.dtb"
	served "armv6 (Raspberry Pi Zero)"

	card_as_pasted
	ok "rpi3: docs/install.md as pasted"
	looked_into rpi3 bootcode.bin start.elf start4.elf fixup.dat fixup4.dat config.txt u-boot.bin bcm2710-rpi-3-b.dtb bcm2711-rpi-4-b.dtb bcm2710-rpi-zero-2-w.dtb
	loads rpi3 qemu-system-aarch64 raspi3b -kernel "$w/u-boot.bin" -dtb "$w/bcm2710-rpi-3-b.dtb"
	slot_files "$w/card.img" >/dev/null
	pi qemu-system-aarch64 raspi3b "console=ttyAMA1,115200 $off" -kernel "$w/kernel" -dtb "$w/bcm2710-rpi-3-b.dtb"
	served "rpi3 (Raspberry Pi 3)"
}

# loads BOARD QEMU MACHINE OPTIONS…: the board's U-Boot runs the boot script and starts the kernel of slot A.
loads() {
	local name=$1 qemu=$2 board=$3; shift 3
	(cd "$w" && mcopy -o -i card.img@@1M '::u-boot*.bin' '::bcm*.dtb' .)
	t0=$SECONDS from=1
	: >"$w/console"
	: >"$w/console2"
	"$qemu" -M "$board" -display none -monitor none "$@" -serial "file:$w/console" -serial "file:$w/console2" \
		-drive "if=sd,file=$w/card.img,format=raw" >"$w/qemu.log" 2>&1 &
	machine=$!
	for _ in $(seq 480); do
		if grep -aq 'tidegate: slot A, good A' "$w"/console*; then break; fi
		sleep 0.25
	done
	cat "$w"/console* >"$w/both" 2>/dev/null
	grep -aq 'tidegate: slot A, good A' "$w/both" || { cp "$w/both" "$w/console"; fail "$name: the boot script does not run"; }
	for _ in $(seq 480); do
		if grep -aqE 'Starting kernel|Booting Linux' "$w"/console*; then break; fi
		sleep 0.25
	done
	grep -aqhE 'Starting kernel|Booting Linux' "$w"/console* || fail "$name: the kernel is not started"
	ok "$name: U-Boot chooses slot A and starts its kernel"
	power_cut
}
