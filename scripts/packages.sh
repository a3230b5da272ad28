#!/usr/bin/env bash
# The packages that scripts/nspawn.sh does not install, as really as a Debian host lets them be tried.
#   scripts/packages.sh
#     .rpm   rpm's own program installs, upgrades, refuses and erases it in a root of its own
#     .apk   installed under OpenRC by the block of docs/install.md, with a stand-in for apk; then reload, respawn
#            of a killed and a hung process, stop
#     .ipk   installed by the block of docs/install.md, with stand-ins for opkg and for procd's rc.common that
#            note what they are told
#     .deb   lintian has nothing to say
#
# Needs root, mmdebstrap, rpm and lintian, which it installs, and a Debian mirror on first use.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "skipped: packages: $*"; exit 0; }
fail() { echo "FAILED: $*" >&2; exit 1; }
ok() { echo "ok   $*"; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(go env GOARCH)" = amd64 ] || skip "the test is written for amd64"
for c in mmdebstrap rpm lintian; do
	command -v $c >/dev/null && continue
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap rpm lintian >/dev/null ||
		skip "mmdebstrap, rpm and lintian cannot be installed"
	break
done
out=$PWD/out/packages
mkdir -p "$out"
if [ ! -s "$out/base.tar" ]; then
	TMPDIR=$([ -d /dev/shm ] && echo /dev/shm || echo /tmp) mmdebstrap --mode=root --variant=minbase --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages none' \
		--include=openrc,busybox-static bookworm "$out/new-base.tar" >"$out/mmdebstrap.log" 2>&1 || { tail -3 "$out/mmdebstrap.log"; skip "no Debian root file system can be made here"; }
	mv "$out/new-base.tar" "$out/base.tar"
fi
w=$(mktemp -d)
trap 'rm -rf "$w"' EXIT
pack() { # version folder variables…
	env VERSION="$1" COMMIT=test SOURCE_DATE_EPOCH=1795600000 ANY_GO=1 OUT="$w/$2" "${@:3}" scripts/package.sh amd64 >/dev/null
}
pack 0.9.0 old STATE_SCHEMA=0 FORMATS=rpm NAMES=tidegate
pack 1.0.0 one
pack 1.1.0 two FORMATS=rpm NAMES=tidegate
root() { mkdir "$w/$1" && tar -C "$w/$1" -xf "$out/base.tar"; }

lintian --fail-on error,warning,info "$w"/one/*.deb >"$w/lintian" 2>&1 || fail "lintian: $(cat "$w/lintian")"
ok "lintian: $(ls "$w"/one/*.deb | wc -l) packages, no error, warning or information"

# .rpm
root rpm
r=(rpm --root "$w/rpm" --dbpath /var/lib/rpm --force-debian --nodeps)
in_rpm() { unshare -m --propagation private chroot "$w/rpm" /bin/sh -c 'PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH; mount -t proc proc /proc && exec "$@"' sh "$@"; }
"${r[@]}" -i "$w"/one/tidegate_1.0.0_amd64.rpm || fail "rpm -i"
in_rpm tidegate version | grep -q 1.0.0 || fail "the program does not run"
for f in etc/tidegate/tidegate.toml usr/lib/systemd/system/tidegate.service usr/lib/systemd/system/tidegate-usb@.service usr/lib/udev/rules.d/60-tidegate.rules \
	usr/share/man/man1/tidegate.1.gz usr/share/man/man5/tidegate.toml.5.gz usr/share/bash-completion/completions/tidegate; do
	[ -s "$w/rpm/$f" ] || fail "rpm: no $f"
done
"${r[@]}" -V tidegate || fail "rpm -V"
in_rpm sh -c 'mkdir -p /var/lib/tidegate && tidegate enroll --data /var/lib/tidegate --output /tmp/before.tideenroll' >/dev/null || fail "no state"
echo '# ours' >>"$w/rpm/etc/tidegate/tidegate.toml"
"${r[@]}" -U "$w"/two/tidegate_1.1.0_amd64.rpm || fail "rpm -U"
in_rpm tidegate version | grep -q 1.1.0 || fail "not upgraded"
tail -1 "$w/rpm/etc/tidegate/tidegate.toml" | grep -q ours || fail "the configuration was overwritten"
if "${r[@]}" -U --oldpackage "$w"/old/tidegate_0.9.0_amd64.rpm >"$w/refused" 2>&1; then fail "the downgrade was not refused"; fi
grep -q 'has form 1, and this version knows forms up to 0' "$w/refused" || fail "the refusal gives no reason: $(cat "$w/refused")"
in_rpm tidegate version | grep -q 1.1.0 || fail "the refused downgrade changed the program"
"${r[@]}" -e tidegate || fail "rpm -e"
[ -e "$w/rpm/var/lib/tidegate/state.db" ] && [ ! -e "$w/rpm/usr/bin/tidegate" ] || fail "after erasing"
if "${r[@]}" -i "$w"/old/tidegate_0.9.0_amd64.rpm >"$w/refused" 2>&1; then fail "an older package was put over the kept state"; fi
ok ".rpm: installed, verified, upgraded with its state and configuration, downgrade refused, erased with the state kept"

# block NAME ROOT PACKAGE: what docs/install.md says, and the package in the folder where it is pasted.
block() {
	scripts/docblock.sh docs/install.md "$1" >"$2/tmp/block" || exit 1
	mkdir "$2/tmp/here" && cp "$3" "$2/tmp/here/"
}

# .apk under OpenRC
root apk
mkdir "$w/a"
tar -C "$w/a" --warning=no-unknown-keyword -xzf "$w"/one/tidegate_1.0.0_amd64.apk
for f in .pre-install .post-install .pre-deinstall .pre-upgrade .post-upgrade; do
	[ -s "$w/a/$f" ] || fail "apk: no $f"
	chroot "$w/apk" /bin/busybox sh -n <"$w/a/$f" || fail "apk: $f"
done
grep -qx 'pkgname = tidegate' "$w/a/.PKGINFO" && grep -qx 'arch = x86_64' "$w/a/.PKGINFO" || fail "apk: $(cat "$w/a/.PKGINFO")"
block apk "$w/apk" "$w/one/tidegate_1.0.0_amd64.apk"
cp scripts/packages/openrc.sh "$w/apk/tmp/"
cp scripts/packages/apk.sh "$w/apk/usr/sbin/apk"
unshare -m -p -n -f --kill-child --propagation private chroot "$w/apk" /bin/bash /tmp/openrc.sh || fail "OpenRC"
ok ".apk: docs/install.md as pasted; OpenRC starts it as its own user, reloads, replaces a killed and a hung process, stops"

# .ipk and procd
root ipk
mkdir "$w/x"
tar -C "$w/x" -xzf "$w"/one/tidegate_1.0.0_amd64.ipk
mkdir "$w/x/c" && tar -C "$w/x/c" -xzf "$w/x/control.tar.gz"
[ "$(cat "$w/x/debian-binary")" = 2.0 ] && grep -qx 'Package: tidegate' "$w/x/c/control" || fail "ipk: $(cat "$w/x/c/control")"
cp "$w"/x/c/{preinst,postinst,prerm} scripts/packages/procd.sh "$w/ipk/tmp/"
for f in preinst postinst prerm; do chroot "$w/ipk" /bin/busybox sh -n "/tmp/$f" || fail "ipk: $f"; done
IPKG_INSTROOT=/nowhere sh "$w/x/c/postinst" || fail "ipk: postinst while an image is built"
sed 's/x86_64/armv5tel/' "$w/x/c/preinst" >"$w/ipk/tmp/preinst"
if chroot "$w/ipk" /bin/busybox sh /tmp/preinst 2>"$w/refused"; then fail "ipk: a package for another machine was taken"; fi
grep -q 'this package is for armv5tel, and this machine is x86_64' "$w/refused" || fail "ipk: $(cat "$w/refused")"
block ipk "$w/ipk" "$w/one/tidegate_1.0.0_amd64.ipk"
cp scripts/packages/opkg.sh "$w/ipk/usr/bin/opkg"
cp scripts/packages/rc.common "$w/ipk/etc/rc.common"
chroot "$w/ipk" /bin/busybox sh /tmp/procd.sh || fail "docs/install.md: ipk"
ok ".ipk: docs/install.md as pasted; refuses another machine; the procd script asks for its user, the command, respawn without end, reload by HUP"
