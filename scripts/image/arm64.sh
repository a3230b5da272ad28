# Parts of scripts/image.sh on the generic arm64 board. Each begins where the one before it ended.

part_serve() {
	card arm64
	power_on
	saw 300 'tideinit: ready'
	answers /health 200
	ok "power on, ready, serving"
	saw 60 'provisioned .*bundle 1 of .*on trial'
	answers /meters/1.0/status 200
	answers /meters/1.0/readings 401
	saw 60 'bundle confirmed.*seq=1'
	ok "trust root and bundle 1 from the card"
	local size
	size=$(sfdisk -J "$w/card.img" | python3 -c 'import json, sys; print(json.load(sys.stdin)["partitiontable"]["partitions"][3]["size"] // 2048)')
	[ "$size" -gt 128 ] || fail "the data partition has $size MiB"
	ok "the data partition grew to $size MiB"
	cp --sparse=always "$w/card.img" "$w/served.img" # with the machine running: a power cut of its own
	power_cut
}

# Power cuts at random moments of a run that takes a bundle and a system from sticks.
part_cuts() {
	VERSION=2.0.0 OUT=$w/v2 quietly scripts/mkimage.sh arm64
	system "$w/v2.tide" "$w/v2/tidegate-arm64.img" 1
	stick "$w/2.stick" "$w/2.tide"
	stick "$w/v2.stick" "$w/v2.tide"
	cp --sparse=always "$w/card.img" "$w/base.img"
	power_on "$w/writes"
	saw 300 'tideinit: ready'
	answers /meters/1.0/status 200
	plug "$w/2.stick" one
	saw 120 'stick sda1: tide/2.tide: bundle 2: trial'
	saw 120 'bundle confirmed.*seq=2'
	BUNDLE_AT=$("$w/powercut" -count "$w/writes")
	saw 60 'stick sda1: accepted: bundle 2: confirmed'
	saw 60 'it can be pulled'
	pull one
	local out
	out=$(mdir -b -/ -i "$w/2.stick@@1M" ::tide/out)
	for f in status.txt tideenroll tidereceipt tidestatus; do grep -q "$f\$" <<<"$out" || fail "no $f on the stick: $out"; done
	mtype -i "$w/2.stick@@1M" "$(grep status.txt <<<"$out")" >"$w/status.txt"
	grep -q 'bundle 2' "$w/status.txt" || fail "status.txt: $(cat "$w/status.txt")"
	ok "on the stick: status, receipt, enrolment request"
	answers /meters/1.0/status 200
	ok "bundle 2 from a stick that was plugged in"
	mark
	plug "$w/v2.stick" two
	saw 300 'stick sda1: .*system 2.0.0 .*: trial'
	saw 300 'tideinit: system B is version 2.0.0'
	saw 60 'tideinit: system B is on trial'
	saw 300 'tideinit: ready'
	answers /meters/1.0/status 200
	saw 120 'system confirmed.*version=2.0.0'
	saw 30 'tideinit: system B is good'
	SYSTEM_AT=$("$w/powercut" -count "$w/writes")
	boot_is "slot B, good B, tries 0, given up none"
	pull two
	ok "a system bundle from a stick: version 2.0.0 runs and is kept"
	for _ in $(seq 20); do code /meters/1.0/status >/dev/null; done
	power_cut

	t0=$SECONDS
	V2=$("$w/bootstate" -slot "$w/v2/tidegate-arm64.img" A)
	export BUNDLE_AT SYSTEM_AT V2 W=$w
	"$w/powercut" -points "${POINTS:-24}" "$w/base.img" "$w/writes" scripts/image/check.sh || fail "a power cut lost something"
	ok "${POINTS:-24} power cuts at random moments: nothing that was confirmed is lost"
	# What comes back in such an image serves.
	for image in "$w"/cut-*.img; do
		mv "$image" "$w/card.img"
		power_on
		saw 300 'tideinit: ready'
		answers /meters/1.0/status 200
		ok "an image that a power cut left boots and serves"
		power_cut
	done
	t0=$SECONDS
	KEEP=no "$w/powercut" -lying -points "${POINTS:-24}" "$w/base.img" "$w/writes" scripts/image/check.sh >"$w/lying" || { cat "$w/lying"; fail "a lying disk was found good"; }
	ok "control: $(tail -1 "$w/lying") on a card that loses one flushed write in ten"
}

# Systems that do not come up.
part_fallback() {
	[ -e "$w/v2.tide" ] || { VERSION=2.0.0 OUT=$w/v2 quietly scripts/mkimage.sh arm64; }
	cp --sparse=always "$w/served.img" "$w/card.img"
	# Its gateway ends at once: the system before it runs again, and the bundle is not taken again.
	local bad=$w/v2/bad.img
	cp --sparse=always "$w/v2/tidegate-arm64.img" "$bad"
	quietly unsquashfs -q -n -d "$w/badroot" -o $((65 << 20)) "$bad"
	install -m 755 "$w/badroot/init" "$w/badroot/usr/bin/tidegate"
	quietly mksquashfs "$w/badroot" "$w/badsq" -comp gzip -noappend -quiet -no-progress -all-root
	dd if="$w/badsq" of="$bad" bs=1M seek=65 conv=notrunc status=none
	system "$w/bad.tide" "$bad" 2
	stick "$w/bad.stick" "$w/bad.tide"
	power_on
	saw 300 'tideinit: ready'
	answers /meters/1.0/status 200
	plug "$w/bad.stick" bad
	saw 300 'stick sda1: .*system 2.0.0 .*: trial'
	saw 300 'tideinit: system B is on trial'
	saw 300 'tideinit: system B does not serve'
	saw 300 'slot B is given up, back to A'
	mark
	saw 300 'tideinit: ready'
	saw 60 'system rolled back.*E_HEALTH'
	answers /meters/1.0/status 200
	ok "a system whose gateway does not serve: back to the one before"
	pull bad
	mark
	plug "$w/bad.stick" again
	saw 120 'refused.*word=E_HEALTH'
	saw 60 'it can be pulled'
	ok "the same system is not taken again"
	power_cut
	# Its first process is missing: the kernel panics, until the tries are used up.
	dd if=/dev/zero of="$w/card.img" bs=1M seek=$((1 + 64 + 96)) count=8 conv=notrunc status=none
	"$w/bootstate" "$w/card.img" B A 1
	power_on
	saw 400 'slot B is given up, back to A'
	saw 300 'tideinit: system B did not come up and was given up'
	saw 300 'tideinit: ready'
	answers /meters/1.0/status 200
	ok "a system without a first process is given up"
	power_cut
	# Its kernel is missing: the other slot is let in at once.
	dd if=/dev/zero of="$w/card.img" bs=1M seek=$((1 + 64 + 96 + 64)) count=8 conv=notrunc status=none
	"$w/bootstate" "$w/card.img" B A 3
	power_on
	saw 300 'slot B does not load'
	saw 300 'tideinit: ready'
	boot_is "slot A, good A, tries 0, given up B"
	ok "a system that does not load is given up at once"
	power_cut
	# One that works, put there by hand: once it has served for a minute, it is the good one.
	dd if="$w/card.img" of="$w/slot" bs=1M skip=$((1 + 64)) count=96 status=none
	dd if="$w/slot" of="$w/card.img" bs=1M seek=$((1 + 64 + 96)) conv=notrunc status=none
	"$w/bootstate" "$w/card.img" B A 3
	power_on
	saw 300 'tideinit: system B is on trial'
	saw 400 'tideinit: system B is good'
	answers /meters/1.0/status 200
	boot_is "slot B, good B, tries 0, given up none"
	ok "a system that was put there by hand and works is kept"
	power_cut
}

# Sticks that are not as they should be. The machine serves on, whatever is plugged in.
part_sticks() {
	cp --sparse=always "$w/served.img" "$w/card.img"
	power_on
	saw 300 'tideinit: ready'
	truncate -s 16M "$w/ext4.stick"
	quietly mke2fs -q -t ext4 "$w/ext4.stick"
	plug "$w/ext4.stick" ext4
	saw 60 'stick sda: E_MEDIA_FS: want a FAT, exFAT or ISO 9660 file system, found "ext4"'
	pull ext4
	head -c 8M /dev/urandom >"$w/noise.stick"
	mark
	plug "$w/noise.stick" noise
	saw 60 'stick sd[a-z]: E_MEDIA_FS: .*found ""'
	pull noise
	ok "a stick with ext4, and one with nothing on it: E_MEDIA_FS"
	# A FAT without a partition table, cut up by chance: 20 of them.
	python3 - "$w" <<'P'
import random, subprocess, sys
w = sys.argv[1]
subprocess.check_call(["truncate", "-s", "8M", w + "/fat"])
subprocess.check_call(["mformat", "-i", w + "/fat", "-T", "16384", "-h", "16", "-s", "32", "-v", "STICK", "::"])
subprocess.check_call(["mmd", "-i", w + "/fat", "::tide", "::tide/out"])
subprocess.check_call(["mcopy", "-i", w + "/fat", w + "/2.tide", "::tide/"])
whole = open(w + "/fat", "rb").read()
for seed in range(20):
    rnd, b = random.Random(seed), bytearray(whole)
    for _ in range(200):  # in the head, the tables and the folders; the mark of the file system stays
        at = rnd.randrange(11, 60 << 10)
        if not (54 <= at < 62 or 510 <= at < 512):
            b[at] = rnd.randrange(256)
    open(w + "/hostile-%d.stick" % seed, "wb").write(b)
P
	for n in $(seq 0 19); do
		mark
		plug "$w/hostile-$n.stick" "hostile$n"
		saw 120 'stick sd[a-z]+[0-9]*: (done|E_MEDIA|mount|open)'
		pull "hostile$n"
	done
	answers /meters/1.0/status 200
	ok "20 hostile FATs: the machine serves"
	mark
	plug "$w/fat" whole
	saw 120 'tide/2.tide: bundle 2: (trial|already so)|bundle confirmed.*seq=2'
	answers /meters/1.0/status 200
	ok "a FAT without a partition table is taken"
	power_cut
}
