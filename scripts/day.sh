#!/usr/bin/env bash
# What a call costs on the wire and on flash: the real programs, a real Mosquitto with our access
# rules and TLS, 100 calls a second for a part of a day, and what a day would be by that.
#   TIDEGATE_DAY=20m scripts/day.sh    how long; the default of 1 m shows only that it works
# It is run by hand: figures need a machine that does nothing else. It ends what it starts.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v mosquitto >/dev/null || { echo "skipped: mosquitto is not installed"; exit 0; }
lasts=${TIDEGATE_DAY:-1m} settle=${TIDEGATE_SETTLE:-90s}
unset TIDEGATE_DAY TIDEGATE_SETTLE # the device would wonder
dir=$(mktemp -d)
chmod 755 "$dir"
pids=()
cleanup() {
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; wait "$p" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap cleanup EXIT
fail() { echo "$*" >&2; tail -5 "$dir"/*.log >&2; exit 1; }

free_port() { # a port that nobody listens on now
	local p
	while :; do
		p=$((20000 + RANDOM % 20000))
		(exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }
	done
}

go build -o "$dir/" ./cmd/tidegate ./cmd/tidectl ./scripts/link
root=$PWD
cd "$dir"
PATH=$dir:$PATH
for k in root release collector time; do tidectl keys new "$k.key" --no-passphrase >/dev/null; done
tidectl trust init --root root.key --release release.key --collector collector.key --time time.key --key root.key -o fleet.tideroot >/dev/null

# A project with five applications.
tidectl init site >/dev/null
keys=
{
	echo "applications:"
	for i in 1 2 3 4 5; do echo "  - {id: \"$i\", name: app-$i, owner: fitter$i, plan: Unlimited, keys: [{consumer_key: key-$i, type: PRODUCTION}]}"; done
	echo "subscriptions:"
	for i in 1 2 3 4 5; do echo "  - {application: \"$i\", api: meters, version: \"1.0\", plan: Unlimited, state: UNBLOCKED}"; done
	echo "api_keys:"
	for i in 1 2 3 4 5; do
		tidectl apikey new --json >key.json
		keys="$keys $(sed -n 's/.*"key": "\(.*\)",/\1/p' key.json)"
		echo "  - {name: key $i, sha256: $(sed -n 's/.*"sha256": "\(.*\)"/\1/p' key.json), application: \"$i\"}"
	done
} >site/consumers.yaml
sed -i 's/x-tidegate-plans: .*/x-tidegate-plans: [Unlimited]/; s/^  - token: \[\]/  - key: []/; /x-throttling-tier/d' site/apis/meters.yaml
printf 'product: day\nname: day\n' >site/tide.yaml
tidectl build site -o site.tide --key release.key --seq 1 >/dev/null

# The device, at rest.
fp=$(tidectl trust show fleet.tideroot | awk '$1 == "fingerprint" {print $2}')
export TIDEGATE_DATA=$dir/data
tidegate trust install --config "" --fingerprint "$fp" fleet.tideroot >/dev/null
tidegate enroll --config "" --output me.tideenroll >/dev/null
id=$(tidectl fleet enroll me.tideenroll --root fleet.tideroot --key release.key --product day --channel stable --fleet acme --json | sed -n 's/.*"device": "\(.*\)".*/\1/p')
[ -n "$id" ] || fail "no device id"

mkdir certs
link certs -dir certs -name "$id"
broker=$(free_port) tap=$(free_port) backend=$(free_port) http=$(free_port)
sed -e "s|/etc/mosquitto/certs|$dir/certs|; s|/etc/mosquitto/mosquitto.acl|$root/packaging/mqtt/mosquitto.acl|" \
	-e "s|^listener 8883|listener $broker 127.0.0.1|; s|^persistence true|persistence false|" "$root/packaging/mqtt/mosquitto.conf" >mosquitto.conf
[ "$(id -u)" != 0 ] || echo "user root" >>mosquitto.conf
mosquitto -c mosquitto.conf >mosquitto.log 2>&1 &
pids+=($!)
common="--broker tls://127.0.0.1:$broker --fleet acme --ca certs/ca.pem --root fleet.tideroot"
tidectl fleet collect $common --cert certs/fleet-collector-1.pem --cert-key certs/fleet-collector-1.key --collector-key collector.key --store fleet.db >collect.log 2>&1 &
pids+=($!)
tidectl fleet publish site.tide $common --cert certs/fleet-publisher-1.pem --cert-key certs/fleet-publisher-1.key --time-key time.key >publish.log 2>&1 &
pids+=($!)

cat >tidegate.toml <<END
data = "$dir/data"
[listen]
http = "127.0.0.1:$http"
https = ""
[admin]
listen = ""
[endpoints.meters]
url = "http://127.0.0.1:$backend"
[mqtt]
brokers = ["tls://127.0.0.1:$tap"]
fleet = "acme"
ca_file = "$dir/certs/ca.pem"
cert_file = "$dir/certs/$id.pem"
key_file = "$dir/certs/$id.key"
first_after = "0s"
END
link day -tap "127.0.0.1:$tap" -broker "127.0.0.1:$broker" -backend "127.0.0.1:$backend" -api "http://127.0.0.1:$http/meters/1.0" -keys "$keys" \
	-for "$lasts" -settle "$settle" -- tidegate run --config tidegate.toml 2>device.log || fail "the run"
tidectl fleet export --store fleet.db --format csv >calls.csv
lost=$(tidectl fleet status --store fleet.db --json | sed -n 's/.*"lost_calls": \([0-9]*\).*/\1/p')
echo "stored by the fleet: $(($(wc -l <calls.csv) - 1)) calls, those of the warming up included; declared lost: ${lost:-0}"
