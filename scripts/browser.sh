#!/usr/bin/env bash
# The operator's page in headless Chromium, on a running device: sign in, upload, plan, apply,
# watch the trial, see a 429 counted, roll back, read doctor; then promtool over metrics and
# rules. Screenshots and figures land in out/browser/.
#
# It needs root on Debian to install chromium and prometheus where they are missing, and node.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
out=$root/out/browser
mkdir -p "$out"

need() { # program package
	command -v "$1" >/dev/null && return
	[ "$(id -u)" = 0 ] || { echo "skipped: browser: $1 is missing; install the package $2"; exit 0; }
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "$2" >/dev/null
}
need chromium chromium
need promtool prometheus
need node nodejs
need npm npm

(cd scripts/browser && npm ci --no-audit --no-fund --ignore-scripts --silent)

work=$(mktemp -d /tmp/tidegate-browser-XXXXXX)
pids=()
finish() {
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
	for p in "${pids[@]}"; do wait "$p" 2>/dev/null || true; done
	rm -rf "$work"
}
trap finish EXIT

if [ -n "${TIDEGATE_BIN:-}" ]; then PATH=$TIDEGATE_BIN:$PATH; else make -s build; PATH=$root/bin:$PATH; fi
export PATH

# Two bundles of one project: the second has one operation more and another limit.
cd "$work"
tidectl init site >/dev/null
sed -i 's/^trial:.*/trial: {mode: automatic, window: 10s, attempts: 3}/' site/tide.yaml
tidectl keys new --no-passphrase key >/dev/null
tidectl trust init --root key --release key --key key -o site.tideroot >/dev/null
tidectl build site --root site.tideroot --key key --seq 1 -o one.tide >/dev/null
cat >> site/apis/meters.yaml.new <<'YAML'
  /alarms:
    get:
      operationId: listAlarms
      security: []
      responses:
        "200": {description: the alarms}
YAML
sed -i '/^components:/{
r site/apis/meters.yaml.new
N
}' site/apis/meters.yaml
python3 - site/apis/meters.yaml site/apis/meters.yaml.new <<'PY'
import sys
text, new = (open(n).read() for n in sys.argv[1:3])
text = text.replace(new, '')
open(sys.argv[1], 'w').write(text.replace('\ncomponents:', '\n' + new + '\ncomponents:', 1))
PY
rm site/apis/meters.yaml.new
sed -i 's/5PerMin: {count: 5/5PerMin: {count: 7/' site/policies.yaml
tidectl build site --root site.tideroot --key key --seq 2 -o two.tide >/dev/null
# A third one whose names are markup, as whoever holds a release key could write them.
cp -r site evil
sed -i "s|title: meters|title: '<img src=x onerror=document.title=\"owned\">'|; /^  .status:/,/^      security/s|^      security|      x-throttling-tier: '<b>5PerMin'\n      security|" evil/apis/meters.yaml
sed -i "s|5PerMin:|'<b>5PerMin':|" evil/policies.yaml
sed -i "s|x-throttling-tier: 5PerMin|x-throttling-tier: '<b>5PerMin'|" evil/apis/meters.yaml
printf 'applications: []\n' > evil/consumers.yaml
tidectl build evil --root site.tideroot --key key --seq 3 -o evil.tide >/dev/null
head -c 700 two.tide > broken.tide

node "$root/scripts/browser/backend.mjs" > backend.port &
pids+=($!)
for _ in $(seq 100); do [ -s backend.port ] && break; sleep 0.05; done

TIDEGATE_LISTEN_HTTP=127.0.0.1:0 TIDEGATE_LISTEN_HTTPS= TIDEGATE_ADMIN_LISTEN=127.0.0.1:0 \
TIDEGATE_ENDPOINTS_METERS_URL=http://127.0.0.1:$(cat backend.port) TIDEGATE_LOG_ACCESS=json \
	tidegate run --data "$work/data" --config "" > access.log 2> device.log &
device=$!
pids+=("$device")
export TIDEGATE_ADMIN_SOCKET=$work/data/admin.sock
for _ in $(seq 200); do tidegate status --config "" >/dev/null 2>&1 && break; sleep 0.05; done
fingerprint=$(tidectl trust show site.tideroot | awk '$1=="fingerprint"{print $2}')
tidegate trust install --config "" --fingerprint "$fingerprint" site.tideroot >/dev/null
echo "correct horse battery" | tidegate admin passwd --config "" --password-file - eva >/dev/null
echo "only looking here" | tidegate admin passwd --config "" --role viewer --password-file - ron >/dev/null
tidegate apply --config "" one.tide >/dev/null

admin=http://$(tidegate status --config "" --json | node -pe 'JSON.parse(require("fs").readFileSync(0)).listen.admin')
api=http://$(tidegate status --config "" --json | node -pe 'JSON.parse(require("fs").readFileSync(0)).listen.http')

rc=0
ADMIN=$admin API=$api WORK=$work OUT=$out DEVICE=$device node --test "$root/scripts/browser/page.test.mjs" || rc=$?

echo "metrics and rules:"
curl -fsS "$admin/metrics" > "$out/metrics.txt"
promtool check metrics < "$out/metrics.txt" || rc=1
promtool check rules "$root/packaging/prometheus/tidegate.rules.yml" || rc=1
promtool test rules "$root/packaging/prometheus/tidegate.rules.test.yml" || rc=1
# Every metric that dashboard and rules name is one that a device gives.
for m in $(grep -oh 'tidegate_[a-z_]*' "$root"/packaging/prometheus/tidegate.rules.yml "$root"/packaging/grafana/*.json | sort -u); do
	case $m in
	tidegate_sync_*|tidegate_disk_worn_ratio) continue ;; # only where there is a link, or a card that tells
	esac
	grep -q "^# TYPE ${m%_bucket} \|^# TYPE $m " "$out/metrics.txt" || { echo "nobody gives $m"; rc=1; }
done
if [ $rc -ne 0 ]; then echo "log of the device:"; tail -40 device.log; fi
exit $rc
