#!/bin/bash
# Runs inside the container of scripts/nspawn.sh, as root.
set -u
cd /opt/tg
export DEBIAN_FRONTEND=noninteractive

fail() { echo "FAILED: $*" >&2; exit 1; }
ok() { echo "ok   $*"; }
until_true() { # seconds command…
	local n=$(($1 * 5)); shift
	for _ in $(seq $n); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
	return 1
}
status_of() { curl -s -o /dev/null -w '%{http_code}' -m 3 "$1"; }
answers() { [ "$(status_of "$1")" = "$2" ]; }
pid() { systemctl show -p MainPID --value tidegate; }
value() { tidegate status --json | sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",]*\).*/\1/p" | head -1; }
serves() { answers http://127.0.0.1:9090/meters/1.0/status 200; }

block() { # name: runs what docs/install.md says, as it stands there
	./docblock.sh install.md "$1" >block.sh || fail "docs/install.md has no block $1"
	(set -e; . ./block.sh) >block.log 2>&1 || { cat block.log; fail "docs/install.md: $1"; }
}

# The backend: each connection is one shell.
cat >/etc/systemd/system/backend.socket <<'U'
[Socket]
ListenStream=127.0.0.1:9080
Accept=yes
U
cat >/etc/systemd/system/backend@.service <<'U'
[Service]
ExecStart=-/bin/bash -c 'while IFS= read -r l && [ "$$l" != $$'\''\\r'\'' ]; do :; done; printf "HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nContent-Type: text/plain\\r\\nConnection: close\\r\\n\\r\\nhi\\n"'
StandardInput=socket
U
systemctl daemon-reload && systemctl start backend.socket || fail "backend"
answers http://127.0.0.1:9080/ 200 || fail "the backend does not answer"

# A fresh installation
mkdir later && mv tidegate_0.9.0_amd64.deb tidegate_1.1.0_amd64.deb later
block deb
mv later/* .
[ "$(systemctl is-active tidegate)" = active ] || fail "not active after the installation: $(systemctl status tidegate --no-pager)"
[ "$(systemctl is-enabled tidegate)" = enabled ] || fail "not enabled"
[ "$(tidegate health)" = ready ] || fail "not ready"
answers http://127.0.0.1:9090/health 200 || fail "/health"
ok "installed, enabled, ready: version $(tidegate version)"

systemd-analyze security --threshold=20 tidegate.service >security.txt || { cat security.txt; fail "sandbox"; }
ok "sandbox: $(tail -1 security.txt | grep -o '[0-9][0-9]*[.][0-9]') of 10 exposed"
owner=$(stat -c %u "/proc/$(pid)")
[ "$owner" -ge 61184 ] && [ "$owner" -le 65519 ] || fail "runs as user $owner, want one of the dynamic ones"
[ "$(grep CapEff "/proc/$(pid)/status" | awk '{print $2}')" = 0000000000000000 ] || fail "has capabilities"
ok "runs as a dynamic user without capabilities"

# Trust and a bundle
tidegate apply one.tide >apply.txt 2>&1; [ $? = 31 ] || fail "a bundle without a trust root: $(cat apply.txt)"
block first-bundle
until_true 10 serves || fail "bundle 1 does not serve"
answers http://127.0.0.1:9090/meters/1.0/readings 401 || fail "a call without a token"
ok "bundle 1 serves"
device=$(value device)

# Reload
port() { sed -i '/^http = /d' /etc/tidegate/tidegate.toml && sed -i "s/^\[listen\]/[listen]\nhttp = \"$1\"/" /etc/tidegate/tidegate.toml; }
before=$(pid)
port nowhere && systemctl reload tidegate
until_true 10 sh -c 'journalctl -u tidegate --no-pager | grep -q "reload refused"' || fail "a wrong configuration was not refused"
serves || fail "does not serve after a refused reload"
port 127.0.0.1:9190 && systemctl reload tidegate
until_true 10 answers http://127.0.0.1:9190/meters/1.0/status 200 || fail "the new port is not served"
port 0.0.0.0:9090 && block reload
until_true 10 serves || fail "the old port is not served again"
[ "$(pid)" = "$before" ] || fail "a reload changed the process"
ok "reload: a wrong configuration is refused, a new port is taken, the process stays"

# A socket of systemd takes a low port over
block sockets
until_true 20 answers http://127.0.0.1:80/meters/1.0/status 200 || fail "port 80 is not served: $(systemctl status tidegate --no-pager)"
systemctl restart tidegate & # who calls now waits and is answered
[ "$(curl -s -o /dev/null -w '%{http_code}' -m 60 http://127.0.0.1:80/health)" = 200 ] || fail "a call during a restart was refused"
wait
systemctl disable --now tidegate-http.socket 2>/dev/null; systemctl stop tidegate && systemctl start tidegate || fail "start without the socket"
until_true 20 serves || fail "not served without the socket"
ok "socket activation on port 80, no call refused during a restart"

# Watchdog: a process that hangs
mkdir -p /etc/systemd/system/tidegate.service.d
printf '[Service]\nWatchdogSec=6s\nTimeoutAbortSec=2s\nRestartSec=1s\n' >/etc/systemd/system/tidegate.service.d/fast.conf
systemctl daemon-reload && systemctl restart tidegate || fail "restart"
sleep 15 # more than two of the watchdog's times: who is healthy lives
before=$(pid)
[ "$(systemctl show -p NRestarts --value tidegate)" = 0 ] || fail "the watchdog killed a healthy process"
kill -STOP "$before"
other() { p=$(pid); [ "$p" != 0 ] && [ "$p" != "$before" ] && serves; }
until_true 30 other || fail "a hung process was not replaced"
journalctl -u tidegate --no-pager | grep -q 'Watchdog timeout' || fail "it was not the watchdog"
ok "watchdog: the hung process was killed, bundle $(value seq) serves again"

before=$(pid); kill -9 "$before"
until_true 30 other || fail "a killed process was not replaced"
ok "a killed process is replaced"

# Memory: the limit is real, and the service comes back
limit=$(systemctl show -p MemoryMax --value tidegate)
[ "$limit" = 268435456 ] || fail "MemoryMax is $limit"
group=$(ls -d /sys/fs/cgroup/memory/system.slice/tidegate.service /sys/fs/cgroup/system.slice/tidegate.service 2>/dev/null | head -1)
if [ -w "$group/cgroup.procs" ]; then
	bash -c 'echo $$ >"$0/cgroup.procs" && exec head -c 400M /dev/zero | tail' "$group" >/dev/null 2>&1
	[ $? -gt 128 ] || fail "400 MB fitted into the control group"
	until_true 30 serves || fail "does not serve after memory ran out"
	ok "memory: 400 MB in its control group were killed at 256 MiB, and it serves"
else
	ok "memory: limit set; this host lets nobody try it"
fi
rm -r /etc/systemd/system/tidegate.service.d && systemctl daemon-reload

# Sticks
mkdir -p stick/tide/out
setpriv --bounding-set=-all,+dac_override --inh-caps=-all --no-new-privs tidegate take --stay stick >take.txt 2>&1 & # as the unit for sticks does
helper=$!
until_true 10 sh -c 'tidegate status --json | grep -q "\"seq\": 2"' || fail "bundle 2 was not taken from the stick: $(cat take.txt)"
tidegate confirm >/dev/null || fail "confirm 2"
wait $helper || fail "take: $(cat take.txt)"
grep -q '^two.tide: bundle 2: trial' take.txt && grep -q '^accepted: bundle 2: confirmed' take.txt || fail "the verdict: $(cat take.txt)"
ls stick/tide/out/*/*.tidereceipt >/dev/null || fail "no receipt on the stick"
ok "a bundle from a stick, its verdict and its receipt"

# Upgrade, and a downgrade that is refused
echo '# ours' >>/etc/tidegate/tidegate.toml
dpkg -i tidegate_1.1.0_amd64.deb >dpkg.log 2>&1 || { cat dpkg.log; fail "upgrade"; }
until_true 20 serves || fail "does not serve after the upgrade"
[ "$(value version)" = 1.1.0 ] && [ "$(value device)" = "$device" ] || fail "after the upgrade: version $(value version), device $(value device)"
tidegate status --json | grep -q '"seq": 2' || fail "the bundle was lost by the upgrade"
tail -1 /etc/tidegate/tidegate.toml | grep -q ours || fail "the configuration was overwritten"
ok "upgrade keeps keys, bundle and configuration"
if dpkg -i tidegate_0.9.0_amd64.deb >dpkg.log 2>&1; then fail "the downgrade was not refused"; fi
grep -q 'has form 1, and this version knows forms up to 0' dpkg.log || { cat dpkg.log; fail "the refusal gives no reason"; }
[ "$(dpkg-query -f '${Version} ${Status}' -W tidegate)" = "1.1.0 install ok installed" ] || fail "after the refusal: $(dpkg-query -f '${Version} ${Status}' -W tidegate)"
serves || fail "does not serve after the refusal"
ok "downgrade refused: $(grep -m1 'has form' dpkg.log)"

# Removal keeps the state, also against an older package; purge takes it
dpkg -r tidegate >dpkg.log 2>&1 || { cat dpkg.log; fail "remove"; }
[ -e /var/lib/private/tidegate/state.db ] || fail "remove took the state"
answers http://127.0.0.1:9090/health 000 || fail "serves after removal"
if dpkg -i tidegate_0.9.0_amd64.deb >dpkg.log 2>&1; then fail "an older package was put over the kept state"; fi
dpkg -i tidegate_1.1.0_amd64.deb >dpkg.log 2>&1 || { cat dpkg.log; fail "installation over kept state"; }
until_true 20 serves || fail "does not serve after it came back"
[ "$(value device)" = "$device" ] || fail "another device after it came back"
ok "remove keeps the state, and it is found again"
dpkg -P tidegate >dpkg.log 2>&1 || { cat dpkg.log; fail "purge"; }
left=$(find /etc /usr /var/lib -name '*tidegate*' ! -path '*/info/*' ! -path '/var/lib/dpkg/*' 2>/dev/null)
[ -z "$left" ] || fail "purge left: $left"
systemctl cat tidegate >/dev/null 2>&1 && fail "the unit is still known"
ok "purge leaves nothing"

# The .rpm, by rpm's own program: told that this is Debian, whose own packages rpm does not know
hash -r
rpm() { command rpm --force-debian --nodeps "$@"; }
block rpm
until_true 20 answers http://127.0.0.1:9090/health 200 || fail "the .rpm does not serve"
[ "$(systemctl is-active tidegate) $(systemctl is-enabled tidegate)" = "active enabled" ] && [ "$(tidegate health)" = ready ] || fail "after rpm -i: $(systemctl status tidegate --no-pager)"
rpm -e tidegate >rpm.log 2>&1 || { cat rpm.log; fail "rpm -e"; }
[ -e /var/lib/private/tidegate/state.db ] || fail "rpm -e took the state"
answers http://127.0.0.1:9090/health 000 || fail "serves after rpm -e"
ok ".rpm: installed, enabled, ready; erased with the state kept"
rm -rf /var/lib/private/tidegate /var/lib/tidegate /var/lib/tidegate.schema /etc/tidegate && systemctl daemon-reload

# Without a package: the program alone
hash -r
[ "$(./tidegate service status)" = "not installed" ] || fail "status before: $(./tidegate service status)"
./tidegate service start 2>err.txt && fail "started what is not installed"
grep -q 'service install' err.txt || fail "no hint: $(cat err.txt)"
cp tidegate /root/tidegate && /root/tidegate service install 2>err.txt && fail "installed from where the service cannot see it"
PATH=/usr/local/bin:$PATH
block program
[ "$(tidegate service install)" = "already so" ] || fail "a second install"
[ "$(tidegate health)" = ready ] && [ "$(tidegate service status)" = running ] || fail "not running"
tidegate service restart && [ "$(tidegate health)" = ready ] || fail "service restart"
echo '# of an earlier version' >>/etc/systemd/system/tidegate.service
[ "$(tidegate service install)" != "already so" ] || fail "an old unit was kept"
tidegate service stop && [ "$(tidegate service status)" = stopped ] || fail "service stop"
tidegate service uninstall && [ "$(tidegate service uninstall)" = "already so" ] || fail "service uninstall"
[ -e /var/lib/private/tidegate/state.db ] || fail "uninstall took the data"
ok "service install, start, restart, status, stop, uninstall"
