#!/usr/bin/env bash
# What goes wrong around the device, done for real, with the outcome that its owner sees.
#   scripts/bad-input.sh [PART…]
#     repro     two clones of the commit, the second with an empty build cache: the same packages and the
#               same flash image, byte for byte
#     upgrade   a .deb upgrade whose processes are all killed: in each of its scripts, and at POINTS of dpkg's
#               renames
#     foreign   programs and packages for another processor
#     root      the image's root mounted for writing
#   Without a part: all of them.
#
#   POINTS      kills at renames, default 8, spread over all of them
# A full data partition and two services on one folder are Go tests: cmd/tidegate/bad_linux_test.go.
# Needs root, mmdebstrap, rpm, strace and the tools of scripts/mkimage.sh, and a Debian mirror on first use.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "skipped: bad input: $*"; exit 0; }
fail() { echo "FAILED: $*" >&2; exit 1; }
ok() { echo "ok   $*"; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(go env GOARCH)" = amd64 ] || skip "the test is written for amd64"
for c in mmdebstrap rpm strace mksquashfs mformat mkimage sfdisk; do
	command -v $c >/dev/null && continue
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap rpm strace \
		u-boot-tools squashfs-tools mtools dosfstools fdisk e2fsprogs >/dev/null || skip "its tools cannot be installed"
	break
done
w=$(mktemp -d)
tidy() {
	for m in "$w/merged" "$w/over" "$w/mnt"; do if mountpoint -q "$m"; then umount -l "$m"; fi; done
	rm -rf "$w"
}
trap tidy EXIT

part_repro() {
	git clone -q . "$w/one"
	git clone -q "$w/one" "$w/a-second-folder"
	for c in one a-second-folder; do
		if [ -d out/tools ]; then mkdir -p "$w/$c/out" && cp -r out/tools "$w/$c/out/"; fi
	done
	made() { # clone
		(cd "$w/$1" && ANY_GO=1 OUT=$w/$1.made scripts/package.sh amd64 arm64 && OUT=$w/$1.made scripts/mkimage.sh arm64) >"$w/$1.log" 2>&1 || { tail -5 "$w/$1.log"; fail "build in $1"; }
		(cd "$w/$1.made" && find . -type f | sort | xargs sha256sum)
	}
	made one >"$w/sums.one"
	GOCACHE=$w/cache made a-second-folder >"$w/sums.two"
	diff "$w/sums.one" "$w/sums.two" || fail "the same commit gave other bytes"
	[ "$(grep -c '[.]\(deb\|rpm\|apk\|ipk\|img\|json\)$' "$w/sums.one")" -ge 15 ] || fail "not all was built: $(cat "$w/sums.one")"
	ok "the same commit in two folders, the second with an empty cache: $(wc -l <"$w/sums.one") files are the same"
}

# A Debian root with the old package, and the state of a device.
debian() {
	[ ! -e "$w/root" ] || return 0
	local base=$PWD/out/packages/base.tar f=(env COMMIT=test SOURCE_DATE_EPOCH=1795600000 ANY_GO=1 NAMES=tidegate)
	mkdir -p out/bad-input "$w/root" "$w/over" "$w/merged"
	[ -s "$base" ] || base=$PWD/out/bad-input/base.tar # that of scripts/packages.sh, else one of our own
	if [ ! -s "$base" ]; then
		TMPDIR=$([ -d /dev/shm ] && echo /dev/shm || echo /tmp) mmdebstrap --mode=root --variant=minbase --dpkgopt=force-unsafe-io \
			--aptopt='Acquire::Languages none' bookworm out/bad-input/new.tar >"$w/log" 2>&1 || { tail -3 "$w/log"; skip "no Debian root file system can be made here"; }
		mv out/bad-input/new.tar "$base"
	fi
	"${f[@]}" VERSION=1.0.0 FORMATS="deb rpm" OUT="$w/old" scripts/package.sh amd64 arm64 >/dev/null
	"${f[@]}" VERSION=1.1.0 FORMATS=deb OUT="$w/new" scripts/package.sh amd64 >/dev/null
	tar -C "$w/root" -xf "$base"
	cp "$w"/old/*.deb "$w"/new/*.deb "$w/root/opt/"
	cat >"$w/root/opt/device" <<'S'
#!/bin/sh
# Starts the installed program on the state and says which version and which device it is.
tidegate run --set listen.http=127.0.0.1:0 --set listen.https= --set admin.listen= 2>/tmp/run.log &
for _ in $(seq 300); do
	said=$(tidegate status --json 2>/dev/null) && break
	kill -0 $! 2>/dev/null || break
	sleep 0.1
done
kill $! && wait $! || { cat /tmp/run.log >&2; exit 1; }
echo "$said" | sed -n 's/.*"\(version\|device\|mode\)": *"\([^"]*\)".*/\1=\2/p' | sort | paste -sd ' '
S
	chmod 755 "$w/root/opt/device"
	in_root "$w/root" dpkg -i /opt/tidegate_1.0.0_amd64.deb >"$w/log" 2>&1 || { cat "$w/log"; fail "the old package"; }
	before=$(in_root "$w/root" /opt/device) || fail "the device does not run"
	[[ $before == device=?*\ mode=normal\ version=1.0.0 ]] || fail "before: $before"
	echo '# ours' >>"$w/root/etc/tidegate/tidegate.toml"
}
in_root() { # root command…: with processes of its own, which end with it
	unshare -m -p -f --kill-child --propagation private chroot "$1" /bin/sh -c 'PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH; mount -t proc proc /proc; ip link set lo up 2>/dev/null; "$@"' sh "${@:2}"
}
fresh() { # $w/merged is the root as it was before the upgrade
	if mountpoint -q "$w/merged"; then umount "$w/merged"; fi
	if mountpoint -q "$w/over"; then umount "$w/over"; fi
	mount -t tmpfs -o size=400m tmpfs "$w/over"
	mkdir "$w/over/upper" "$w/over/work"
	mount -t overlay -o "lowerdir=$w/root,upperdir=$w/over/upper,workdir=$w/over/work" overlay "$w/merged"
}
# after what: the state and the program that a killed upgrade left, and the way on.
after() {
	local now version way="completes"
	now=$(in_root "$w/merged" /opt/device) || fail "$1: the device does not run after the kill"
	version=${now##*=}
	[[ $version == 1.[01].0 && ${now% *} == "${before% *}" ]] || fail "$1: got $now, before it was $before"
	if ! in_root "$w/merged" dpkg --configure -a >"$w/log" 2>&1; then # unpacked in part: dpkg wants the package again
		grep -q 'reinstall it before' "$w/log" || { cat "$w/log"; fail "$1: dpkg --configure -a"; }
		way="asks for the package again"
	fi
	in_root "$w/merged" dpkg -i /opt/tidegate_1.1.0_amd64.deb >"$w/log" 2>&1 || { cat "$w/log"; fail "$1: the upgrade again"; }
	now=$(in_root "$w/merged" /opt/device) || fail "$1: the device does not run after the upgrade"
	[ "$now" = "${before% *} version=1.1.0" ] || fail "$1: in the end $now"
	[ "$(in_root "$w/merged" dpkg-query -f '${Version} ${Status}' -W tidegate)" = "1.1.0 install ok installed" ] || fail "$1: not installed"
	tail -1 "$w/merged/etc/tidegate/tidegate.toml" | grep -q ours || fail "$1: the configuration is lost"
	echo "     $1: $version runs, dpkg --configure -a $way"
}

part_upgrade() {
	debian
	# In a script: the first thing that it runs takes everything down, as a power cut does.
	local at program call
	for at in prerm:sed:1 preinst:sed:2 postinst:deb-systemd-helper:1; do # postrm runs nothing here
		IFS=: read -r at program call <<<"$at"
		fresh
		local real; real=$(readlink -f "$w/merged/usr/bin/$program"); real=${real#"$w/merged"}
		mv "$w/merged$real" "$w/merged/opt/real"
		printf '#!/bin/sh\necho >>/opt/calls\n[ "$(wc -l </opt/calls)" != %s ] || { : >/opt/killed; kill -9 -1; sleep 9; }\nexec /opt/real "$@"\n' "$call" >"$w/merged$real"
		chmod 755 "$w/merged$real"
		if in_root "$w/merged" dpkg -i /opt/tidegate_1.1.0_amd64.deb >"$w/log" 2>&1; then fail "$at: the upgrade was not cut"; fi
		[ -e "$w/merged/opt/killed" ] || { cat "$w/log"; fail "$at: nothing was killed"; }
		mv "$w/merged/opt/real" "$w/merged$real"
		after "killed in $at"
	done
	# At dpkg's renames: all of them are counted first.
	local all points=${POINTS:-8} n i
	fresh
	strace -o "$w/trace" -e trace=rename,renameat,renameat2 chroot "$w/merged" dpkg -i /opt/tidegate_1.1.0_amd64.deb >"$w/log" 2>&1 || { cat "$w/log"; skip "no strace here"; }
	all=$(grep -c '^rename' "$w/trace")
	[ "$all" -gt "$points" ] || fail "only $all renames"
	for i in $(seq "$points"); do
		n=$((1 + (i - 1) * (all - 1) / (points - 1)))
		fresh
		# In a shell of its own, which does not say that it was killed.
		if (strace -o "$w/trace" -e trace=rename -e "inject=rename:signal=SIGKILL:when=$n" chroot "$w/merged" dpkg -i /opt/tidegate_1.1.0_amd64.deb >"$w/log" 2>&1; exit $?) 2>/dev/null; then
			fail "rename $n: the upgrade was not cut"
		fi
		after "killed at rename $n of $all"
	done
	ok "an upgrade killed in its scripts and at $points renames: state and configuration kept, the old or the new program runs, the upgrade again completes it"
}

part_foreign() {
	debian
	if in_root "$w/root" dpkg -i /opt/tidegate_1.0.0_arm64.deb >"$w/log" 2>&1; then fail "dpkg took a package for arm64"; fi
	grep -q 'package architecture (arm64) does not match system (amd64)' "$w/log" || fail "dpkg: $(cat "$w/log")"
	[ "$(in_root "$w/root" dpkg-query -f '${Version} ${Architecture} ${Status}' -W tidegate)" = "1.0.0 amd64 install ok installed" ] || fail "dpkg has changed the package"
	[ "$(in_root "$w/root" /opt/device)" = "$before" ] || fail "the device is not as it was"
	mkdir "$w/rpm"
	if rpm --root "$w/rpm" --dbpath /var/lib/rpm --force-debian --nodeps -i "$w"/old/tidegate_1.0.0_arm64.rpm >"$w/log" 2>&1; then fail "rpm took a package for aarch64"; fi
	grep -q 'tidegate-1.0.0-1.aarch64 is intended for a different architecture' "$w/log" || fail "rpm: $(cat "$w/log")"
	[ ! -e "$w/rpm/usr/bin/tidegate" ] || fail "rpm put a program there"
	ok "packages for another processor: dpkg and rpm refuse and name the architecture, the device is as it was"
	# The program alone: the kernel refuses it, unless this machine emulates that processor.
	mkdir "$w/arm" && dpkg-deb -x "$w"/old/tidegate_1.0.0_arm64.deb "$w/arm"
	local rc=0
	(cd "$w" && bash -c 'arm/usr/bin/tidegate service install' >"$w/log" 2>&1) || rc=$?
	if grep -q 'Exec format error' "$w/log"; then
		[ $rc = 126 ] || fail "exit code $rc"
		ok "a program for another processor: $(grep -o '[^/ ]*: cannot execute.*' "$w/log"), exit code 126, nothing installed"
	else
		ok "a program for another processor: this machine emulates it"
	fi
}

part_root() {
	mkdir -p "$w/mnt"
	local image=$w/one.made/tidegate-arm64.img
	if [ ! -e "$image" ]; then
		OUT=$w/one.made scripts/mkimage.sh arm64 >"$w/log" 2>&1 || { tail -3 "$w/log"; fail "no image"; }
	fi
	grep -q squashfs /proc/filesystems || modprobe squashfs 2>/dev/null || skip "root: no squashfs here"
	local sum; sum=$(sha256sum <"$image")
	mount -t squashfs -o "rw,loop,offset=$((65 << 20))" "$image" "$w/mnt" 2>/dev/null || fail "the root does not mount"
	mount -o remount,rw "$w/mnt" 2>/dev/null || true
	if touch "$w/mnt/usr/bin/more" 2>"$w/log"; then fail "the root was written"; fi
	grep -q 'Read-only file system' "$w/log" || fail "root: $(cat "$w/log")"
	if cp /bin/true "$w/mnt/usr/bin/tidegate" 2>/dev/null; then fail "the program was replaced"; fi
	umount "$w/mnt"
	[ "$(sha256sum <"$image")" = "$sum" ] || fail "the image was changed"
	ok "the image's root, mounted and remounted for writing: every write is refused, and the image is as it was"
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(repro upgrade foreign root)
for p in "${parts[@]}"; do "part_$p"; done
