#!/usr/bin/env bash
# The arm64 flash image, booted in QEMU and used: it serves, takes bundles from a card and from a
# stick that is plugged in, survives the loss of its power, and falls back from a system that does not
# come up.
#   scripts/image.sh            all of it, some minutes
#   scripts/image.sh quick      boots and serves
#
# Needs qemu-system-arm, u-boot-qemu and the tools of scripts/mkimage.sh, which it installs as root.
# Its ports are on 127.0.0.1 only, and its machines end with it.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "skipped: image: $*"; exit 0; }
tools=(qemu-system-aarch64 mkimage mksquashfs mcopy sfdisk python3)
have() { local c; for c; do command -v "$c" >/dev/null || return 1; done; }
if ! have "${tools[@]}" || [ ! -e /usr/lib/u-boot/qemu_arm64/u-boot.bin ]; then
	[ "$(id -u)" = 0 ] || skip "needs qemu-system-arm u-boot-qemu u-boot-tools squashfs-tools mtools dosfstools fdisk"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-arm ipxe-qemu \
		u-boot-qemu u-boot-tools squashfs-tools mtools dosfstools fdisk e2fsprogs python3 >/dev/null || skip "QEMU cannot be installed"
fi
quick=${1:-}

w=$(mktemp -d)
machine= backend=
finish() {
	for p in $machine $backend; do kill -9 "$p" 2>/dev/null || true; done
	wait 2>/dev/null || true
	rm -rf "$w"
}
trap finish EXIT
fail() { echo "FAILED: $*" >&2; tail -n 40 "$w/console" >&2; exit 1; }
ok() { echo "ok   $* ($((SECONDS - t0)) s)"; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) backend_port=$(free_port)

SIZE_MB=512 scripts/mkimage.sh arm64
cp dist/image/tidegate-arm64.img "$w/card.img"
CGO_ENABLED=0 go build -o "$w/" ./cmd/tidectl ./scripts/bootstate

# The owner's side: keys, a root, two bundles, and a card that is prepared.
(
	sed 's/window: 2m/window: 10s/' examples/meters/tide.yaml >"$w/tide.yaml"
	cp -r examples/meters "$w/project" && mv "$w/tide.yaml" "$w/project/"
	cd "$w"
	for k in root release; do ./tidectl keys new $k.key --no-passphrase --role $k; done
	./tidectl trust init -o root.tideroot --root root.key --release release.key --key root.key
	./tidectl build project -o one.tide --key release.key --root root.tideroot --seq 1
	./tidectl build project -o two.tide --key release.key --root root.tideroot --seq 2
	printf '[endpoints."meters"]\nurl = "http://10.0.2.2:%s"\n' "$backend_port" >tidegate.toml
	mcopy -i card.img@@1M root.tideroot tidegate.toml one.tide ::
	truncate -s 40M stick.img
	echo 'start=2048, type=c' | sfdisk -q --label dos stick.img
	mformat -i stick.img@@1M -F -T $((39 * 2048)) -h 64 -s 32 -v STICK ::
	mmd -i stick.img@@1M ::tide
	mcopy -i stick.img@@1M two.tide ::tide/
) >"$w/prepare.log" 2>&1 || { cat "$w/prepare.log"; exit 1; }

python3 - "$backend_port" <<'P' &
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "3"); self.end_headers(); self.wfile.write(b"hi\n")
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
P
backend=$!

power_on() {
	t0=$SECONDS
	: >"$w/console"
	qemu-system-aarch64 -M virt -cpu cortex-a53 -m 512 -display none -monitor none -serial "file:$w/console" \
		-qmp "unix:$w/qmp,server=on,wait=off" -bios /usr/lib/u-boot/qemu_arm64/u-boot.bin \
		-drive "if=none,id=card,file=$w/card.img,format=raw" -device virtio-blk-device,drive=card \
		-netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:9090" -device virtio-net-device,netdev=net \
		-device qemu-xhci,id=xhci -device i6300esb -action watchdog=reset >"$w/qemu.log" 2>&1 &
	machine=$!
}
power_cut() { kill -9 "$machine"; wait "$machine" 2>/dev/null || true; machine=; }
saw() { # seconds regex
	for _ in $(seq $(($1 * 4))); do
		grep -qE "$2" "$w/console" && return 0
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

power_on
saw 300 'tideinit: ready'
answers /health 200
ok "power on, ready, serving"
saw 60 'provisioned .*bundle 1 of .*on trial'
answers /meters/1.0/status 200
answers /meters/1.0/readings 401
saw 60 'bundle confirmed.*seq=1'
ok "trust root and bundle 1 from the card"
size=$(sfdisk -J "$w/card.img" | python3 -c 'import json, sys; print(json.load(sys.stdin)["partitiontable"]["partitions"][3]["size"] // 2048)')
[ "$size" -gt 128 ] || fail "the data partition has $size MiB"
ok "the data partition grew to $size MiB"
[ "$quick" != quick ] || exit 0

python3 scripts/image/plug.py "$w/qmp" "$w/stick.img" one
saw 120 'stick sda1: bundle 2 of .*on trial'
saw 60 'it can be pulled'
answers /meters/1.0/status 200
python3 scripts/image/plug.py "$w/qmp" --pull one
ok "bundle 2 from a stick that was plugged in"

power_cut
power_on
saw 300 'tideinit: ready'
answers /meters/1.0/status 200
ok "after a power cut it serves again"
power_cut

# A new system that hangs: its first process is missing, so the kernel panics and starts anew,
# until the boot loader has counted its tries down.
dd if=/dev/zero of="$w/card.img" bs=1M seek=$((1 + 64 + 96)) count=8 conv=notrunc status=none
"$w/bootstate" "$w/card.img" B A 1
power_on
saw 400 'slot B is given up, back to A'
saw 300 'tideinit: system B did not come up and was given up'
saw 300 'tideinit: ready'
answers /meters/1.0/status 200
ok "a system that does not come up is given up"
power_cut
"$w/bootstate" "$w/card.img"

# A new system that works: once it has served for a minute, it is the good one.
dd if="$w/card.img" of="$w/slot" bs=1M skip=$((1 + 64)) count=96 status=none
dd if="$w/slot" of="$w/card.img" bs=1M seek=$((1 + 64 + 96)) conv=notrunc status=none
"$w/bootstate" "$w/card.img" B A 3
power_on
saw 300 'tideinit: system B is on trial'
saw 400 'tideinit: system B is good'
answers /meters/1.0/status 200
[ "$("$w/bootstate" "$w/card.img")" = "slot B, good B, tries 0, given up none" ] || fail "boot state: $("$w/bootstate" "$w/card.img")"
ok "a system that works is kept"
