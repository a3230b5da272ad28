#!/usr/bin/env bash
# The .deb under a real systemd: a container is booted with its own PID 1, and the packages are
# installed, used, hung, starved, upgraded, refused and purged in it. Then the .rpm and the program alone
# are installed. What docs/install.md says about them is run as it stands there.
#   scripts/nspawn.sh
#
# Needs root, systemd-container and mmdebstrap, and on first use a Debian mirror; it says
# "skipped" where one of them is missing or no container starts. It has its own network, mount and
# control group namespaces, and ends what it started.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "skipped: service manager: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root"
if ! command -v systemd-nspawn >/dev/null || ! command -v mmdebstrap >/dev/null; then
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd-container mmdebstrap >/dev/null ||
		skip "systemd-container and mmdebstrap cannot be installed"
fi

out=$PWD/out/nspawn
mkdir -p "$out"
base=$out/base-rpm.tar
if [ ! -s "$base" ]; then
	fast=/dev/shm; [ -d $fast ] || fast=/tmp
	TMPDIR=$fast mmdebstrap --mode=root --variant=minbase --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages none' \
		--include=systemd,systemd-sysv,dbus,curl,rpm bookworm "$out/new-base.tar" >"$out/mmdebstrap.log" 2>&1 ||
		{ tail -3 "$out/mmdebstrap.log"; skip "no Debian root file system can be made here"; }
	mv "$out/new-base.tar" "$base"
fi

# The packages: an old one that does not know today's form of the state, and two that follow.
package() { # version variables…
	local v=$1; shift
	env VERSION="$v" COMMIT=test SOURCE_DATE_EPOCH=1795600000 ANY_GO=1 FORMATS="${FORMATS:-deb}" NAMES=tidegate OUT="$out/deb" "$@" scripts/package.sh amd64
}
[ "$(go env GOARCH)" = amd64 ] || skip "the test is written for amd64"
if [ "${KEEP:-}" != 1 ]; then # KEEP=1: those of the last run
	rm -rf "$out/deb"
	package 0.9.0 STATE_SCHEMA=0
	FORMATS="deb rpm" package 1.0.0
	package 1.1.0
fi

# A trust root and two bundles of the example project.
work=$(mktemp -d)
cleanup() {
	stop_container
	rm -rf "$work"
}
leader= nspawn= name=tg-$$
stop_container() {
	[ -n "$leader" ] && nsenter -t "$leader" -m -p -n -u -i -C -- systemctl poweroff >/dev/null 2>&1 || true
	for _ in $(seq 100); do
		[ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null || break
		sleep 0.1
	done
	# A killed nspawn leaves the inner systemd running: both go.
	if [ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null; then kill -9 "$nspawn" || true; fi
	if [ -n "$leader" ] && kill -0 "$leader" 2>/dev/null; then kill -9 "$leader" || true; fi
	for c in /sys/fs/cgroup/*/"$name"; do
		[ -d "$c" ] || continue
		for _ in $(seq 20); do
			find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
			[ -d "$c" ] || break
			sleep 0.1
		done
	done
}
trap cleanup EXIT

mkdir -p "$work/root" "$work/share" "$work/bin"
tar -C "$work/root" -xf "$base"
CGO_ENABLED=0 go build -o "$work/bin/" ./cmd/tidegate ./cmd/tidectl
cp -r examples/meters "$work/project"
(
	cd "$work"
	for k in root release; do bin/tidectl keys new $k.key --no-passphrase --role $k ; done >/dev/null 2>&1
	bin/tidectl trust init -o share/site.tideroot --root root.key --release release.key --key root.key >/dev/null 2>&1
	bin/tidectl build project -o share/one.tide --key release.key --root share/site.tideroot --seq 1 >/dev/null 2>&1
	mkdir share/stick
	bin/tidectl build project -o share/stick/two.tide --key release.key --root share/site.tideroot --seq 2 >/dev/null 2>&1
	bin/tidectl trust show share/site.tideroot --json | sed -n 's/.*"fingerprint": *"\([0-9a-f]*\)".*/\1/p' >share/fingerprint
)
cp "$out"/deb/tidegate_*.{deb,rpm} scripts/nspawn/inside.sh scripts/docblock.sh docs/install.md "$work/bin/tidegate" "$work/share/"
cp -r "$work/share" "$work/root/opt/tg"

# On a host with version 1 control groups the container gets folders of its own, so that its
# systemd may write limits; with version 2 nspawn delegates by itself.
started=$SECONDS
args=(--boot -D "$work/root" -M "$name" --register=no --keep-unit --private-network --console=pipe --resolv-conf=off --link-journal=no)
launch=(unshare -m --propagation private)
if [ -d /sys/fs/cgroup/memory ]; then
	args+=(--private-users=identity)
	launch=(bash -c 'for c in cpu cpuacct memory pids blkio systemd freezer; do d=/sys/fs/cgroup/$c/$0; mkdir -p "$d" && echo $$ >"$d/cgroup.procs"; done; exec unshare -C -m --propagation private "$@"' "$name")
fi
setsid "${launch[@]}" systemd-nspawn "${args[@]}" </dev/null >"$work/console.log" 2>&1 &
nspawn=$!
state=
for _ in $(seq 600); do
	kill -0 $nspawn 2>/dev/null || { tail -n 5 "$work/console.log"; skip "systemd-nspawn starts no container here"; }
	leader=$(pgrep -P $nspawn -x systemd | head -1) || leader=
	if [ -n "$leader" ]; then
		state=$(nsenter -t "$leader" -m -p -n -u -i -C -- systemctl is-system-running 2>/dev/null) || true
		case $state in running | degraded) break ;; esac
	fi
	sleep 0.1
done
case $state in running | degraded) ;; *) cat "$work/console.log"; echo "the container is \"$state\""; exit 1 ;; esac
echo "systemd is up ($state)"

nsenter -t "$leader" -m -p -n -u -i -C -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash /opt/tg/inside.sh ||
	{ nsenter -t "$leader" -m -p -n -u -i -C -- journalctl -u tidegate --no-pager -n 60; exit 1; }
echo "took $((SECONDS - started)) s in the container"
