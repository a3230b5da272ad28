# What the parts of scripts/image.sh share: the owner's keys and bundles, a backend, sticks, and a
# machine in QEMU with its console in $w/console. Sourced, not run.

w=$(mktemp -d)
chmod 711 "$w" # a program runs in it as the device's user
machine= backend= from=1 t0=$SECONDS
finish() {
	for p in $machine $backend; do kill -9 "$p" 2>/dev/null || true; done
	wait 2>/dev/null || true
	if mountpoint -q "$w/mnt" 2>/dev/null; then umount "$w/mnt"; fi
	rm -rf "$w"
}
trap finish EXIT
fail() { echo "FAILED: $*" >&2; tail -n 40 "$w/console" >&2; exit 1; }
ok() { echo "ok   $* ($((SECONDS - t0)) s)"; }
quietly() { "$@" >"$w/log" 2>&1 || { cat "$w/log"; fail "$*"; }; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) backend_port=$(free_port)

# prepare makes the owner's side: keys, a root, bundles 1 and 2, and the device's configuration.
prepare() {
	CGO_ENABLED=0 go build -o "$w/" ./cmd/tidegate ./cmd/tidectl ./scripts/bootstate ./scripts/powercut
	cp -r examples/meters "$w/project"
	sed 's/window: 2m/window: 10s/' examples/meters/tide.yaml >"$w/project/tide.yaml"
	(
		cd "$w"
		for k in root release; do quietly ./tidectl keys new $k.key --no-passphrase --role $k; done
		quietly ./tidectl trust init -o root.tideroot --root root.key --release release.key --key root.key
		for seq in 1 2; do quietly ./tidectl build project -o $seq.tide --key release.key --root root.tideroot --seq $seq; done
		printf '[endpoints."meters"]\nurl = "http://10.0.2.2:%s"\n' "$backend_port" >tidegate.toml
	)
	python3 - "$backend_port" <<'P' &
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "3"); self.end_headers(); self.wfile.write(b"hi\n")
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
P
	backend=$!
}

# card BOARD: an image as its owner prepares it, in $w/card.img.
card() {
	SIZE_MB=512 OUT="$w/v1" VERSION=1.0.0 quietly scripts/mkimage.sh "$1"
	mv "$w/v1/tidegate-$1.img" "$w/card.img"
	mcopy -o -i "$w/card.img@@1M" "$w/root.tideroot" "$w/tidegate.toml" "$w/1.tide" ::
}

# card_as_pasted: the image of a Raspberry Pi 3 as the block of docs/install.md makes it, in a copy of the sources;
# $w/card.img is in place of the card's device.
card_as_pasted() {
	mkdir "$w/here"
	git ls-files -z | tar --null -T - -c | tar -C "$w/here" -x
	cp "$w/root.tideroot" "$w/here/site.tideroot"
	cp "$w/1.tide" "$w/here/site.tide"
	cp "$w/tidegate.toml" "$w/here/"
	scripts/docblock.sh docs/install.md image >"$w/block" || fail "docs/install.md has no block image"
	rm -f "$w/card.img"
	(cd "$w/here" && VERSION=1.0.0 CARD=$w/card.img quietly bash -euo pipefail "$w/block")
	truncate -s 512M "$w/card.img" # a device does not end with what was written
	rm -r "$w/here"
}

# stick IMAGE FILE…: a FAT stick with the files in its folder tide, on which things may go out.
stick() {
	local image=$1; shift
	truncate -s 80M "$image"
	echo 'start=2048, type=c' | sfdisk -q --label dos "$image"
	mformat -i "$image@@1M" -F -T $((79 * 2048)) -h 64 -s 32 -v STICK ::
	mmd -i "$image@@1M" ::tide ::tide/out
	mcopy -i "$image@@1M" "$@" ::tide/
}
plug() { python3 scripts/image/plug.py "$w/qmp" "$1" "$2"; } # IMAGE NAME
pull() { python3 scripts/image/plug.py "$w/qmp" --pull "$1"; }

# system BUNDLE IMAGE SEQ: the bundle of the system in an image.
system() {
	(cd "$w" && quietly ./tidectl system build "$2" -o "$1" --key release.key --root root.tideroot --seq "$3" --window 20s --attempts 1)
}

# power_on [armv7 | LOG]: starts the machine with $w/card.img; LOG records every write to it.
power_on() {
	t0=$SECONDS from=1
	: >"$w/console"
	local disk=(-drive "if=none,id=card,file=$w/card.img,format=raw")
	local qemu=(qemu-system-aarch64 -M virt -cpu cortex-a53 -bios /usr/lib/u-boot/qemu_arm64/u-boot.bin)
	if [ "${1:-}" = armv7 ]; then
		qemu=(qemu-system-arm -M "virt,highmem=off" -cpu cortex-a7 -bios /usr/lib/u-boot/qemu_arm/u-boot.bin)
	elif [ $# -gt 0 ]; then
		: >"$1"
		disk=(-blockdev "driver=file,filename=$w/card.img,node-name=file" -blockdev "driver=file,filename=$1,node-name=log"
			-blockdev driver=blklogwrites,node-name=card,file=file,log=log,log-sector-size=512,log-super-update-interval=1)
	fi
	"${qemu[@]}" -m 512 -display none -monitor none -serial "file:$w/console" \
		-qmp "unix:$w/qmp,server=on,wait=off" \
		"${disk[@]}" -device virtio-blk-device,drive=card \
		-netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:9090" -device virtio-net-device,netdev=net \
		-device qemu-xhci,id=xhci -device i6300esb -action watchdog=reset >"$w/qemu.log" 2>&1 &
	machine=$!
}
power_cut() { kill -9 "$machine"; wait "$machine" 2>/dev/null || true; machine=; }
mark() { from=$(($(stat -c %s "$w/console") + 1)); } # saw looks only at what comes after
saw() { # seconds regex
	for _ in $(seq $(($1 * 4))); do
		tail -c +"$from" "$w/console" | grep -aqE "$2" && return 0
		kill -0 "$machine" 2>/dev/null || { cat "$w/qemu.log"; fail "the machine ended while waiting for: $2"; }
		sleep 0.25
	done
	fail "not on the console within $1 s: $2"
}
code() { curl -s -o /dev/null -w '%{http_code}' -m 10 "http://127.0.0.1:$port$1" || true; }
answers() { # path status
	local got
	for _ in $(seq 40); do got=$(code "$1"); [ "$got" = "$2" ] && return 0; sleep 0.5; done
	fail "$1: got $got, want $2"
}
boot_is() { # what bootstate prints
	local got
	for _ in $(seq 20); do got=$("$w/bootstate" "$w/card.img"); [ "$got" = "$1" ] && return 0; sleep 0.5; done
	fail "boot state: $got, want $1"
}
