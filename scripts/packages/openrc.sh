#!/bin/bash
# Runs inside the root of scripts/packages.sh: the block of docs/install.md for Alpine, and the OpenRC script of
# the .apk.
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
fail() { echo "FAILED: $*" >&2; cat /var/log/* 2>/dev/null | tail -20 >&2; exit 1; }
until_true() { # seconds command…
	local n=$(($1 * 5)); shift
	for _ in $(seq $n); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
	return 1
}
mount -t proc proc /proc && mount -t tmpfs tmpfs /run || fail "mounts"
busybox ip link set lo up || fail "loopback"
mkdir -p /run/openrc/{started,starting,stopping,exclusive,daemons,failed,inactive,wasinactive,hotplugged,options,scheduled,tmp} && touch /run/openrc/softlevel
# Alpine's tools by Debian's: only the options that the script uses are known.
rm -f /usr/sbin/adduser /usr/sbin/addgroup
cat >/usr/sbin/addgroup <<'T'
#!/bin/sh
[ "$#" = 2 ] && [ "$1" = -S ] && exec groupadd -r "$2"
T
cat >/usr/sbin/adduser <<'T'
#!/bin/sh
home= shell= group= name=
while getopts SDHh:s:G:g: o; do
	case $o in h) home=$OPTARG ;; s) shell=$OPTARG ;; G) group=$OPTARG ;; g) name=$OPTARG ;; S | D | H) ;; *) exit 2 ;; esac
done
shift $((OPTIND - 1))
exec useradd -r -M -d "$home" -s "$shell" -g "$group" -c "$name" "$1"
T
chmod 755 /usr/sbin/addgroup /usr/sbin/adduser
printf '\nrc_cgroup_mode="none"\n' >>/etc/rc.conf
# Alpine's localmount, which Debian's OpenRC does not have
printf '#!/sbin/openrc-run\nstart() { :; }\n' >/etc/init.d/localmount && chmod 755 /etc/init.d/localmount
(cd /tmp/here && set -e && . /tmp/block) >/tmp/rc.log 2>&1 || fail "docs/install.md: apk: $(cat /tmp/rc.log)"
[ -e /etc/runlevels/default/tidegate ] || fail "it is not started at boot"
rc() { rc-service --nodeps tidegate "$@"; }
pid() { grep -lsz '^/usr/bin/tidegate$' /proc/[0-9]*/cmdline | cut -d/ -f3 | while read -r p; do grep -qsz '^run$' "/proc/$p/cmdline" && [ "$(readlink "/proc/$p/exe")" = /usr/bin/tidegate ] && echo "$p" && break; done; }
ready() { [ "$(tidegate health 2>/dev/null)" = ready ]; }
until_true 20 ready || fail "not ready: $(cat /tmp/rc.log)"
# The rest with shorter times for the check of its health.
rc stop >/tmp/rc.log 2>&1 || fail "stop: $(cat /tmp/rc.log)"
sed -i 's/^healthcheck_delay=.*/healthcheck_delay=3/; s/^healthcheck_timer=.*/healthcheck_timer=2/' /etc/init.d/tidegate
rc start >/tmp/rc.log 2>&1 || fail "start: $(cat /tmp/rc.log)"
until_true 20 ready || fail "not ready: $(cat /tmp/rc.log)"
first=$(pid)
user=$(stat -c %U "/proc/$first")
[ "$user" = tidegate ] || fail "runs as $user"
[ "$(stat -c '%U %a' /var/lib/tidegate)" = "tidegate 700" ] || fail "state folder: $(stat -c '%U %a' /var/lib/tidegate)"
rc reload >/tmp/rc.log 2>&1 || fail "reload: $(cat /tmp/rc.log)"
until_true 10 ready && [ "$(pid)" = "$first" ] || fail "a reload changed the process"
other() { local p; p=$(pid); [ -n "$p" ] && [ "$p" != "$first" ] && ready; }
kill -9 "$first"
until_true 30 other || fail "a killed process was not replaced"
first=$(pid)
kill -STOP "$first"
until_true 90 other || fail "a hung process was not replaced"
rc stop >/tmp/rc.log 2>&1 || fail "stop: $(cat /tmp/rc.log)"
[ -z "$(pid)" ] || fail "it runs after the stop"
[ -e /var/lib/tidegate/state.db ] || fail "no state"
