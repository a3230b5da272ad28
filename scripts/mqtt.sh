#!/usr/bin/env bash
# The link over real brokers on loopback: Mosquitto and a NATS server with our access rules and
# TLS, a small fleet with the fleet's programs (make fleet-sim is the large one), then a chaos run
# over Mosquitto that cuts the link, kills the broker and kills the device, with controls that must
# lose. It ends what it starts.
#   TIDEGATE_CHAOS=10m scripts/mqtt.sh    the long form; the short one takes 20 s, the controls 15 s each
#   TIDEGATE_SLOW=1 scripts/mqtt.sh       also 4 MiB and 50,000 calls over 32 kbit/s: 23 minutes
#   TIDEGATE_TEST_POSTGRES                set by this script where a PostgreSQL server can be had
set -uo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
chmod 755 "$dir"
pids=()
cleanup() {
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
	rm -rf "$dir"
}
trap cleanup EXIT
fail() { echo "$*" >&2; exit 1; }

free_port() { # a port that nobody listens on now
	local p
	while :; do
		p=$((20000 + RANDOM % 20000))
		(exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }
	done
}

listens() { # port
	for _ in $(seq 200); do
		(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
		sleep 0.05
	done
	fail "nothing listens on port $1"
}

postgres_store() { # the store's conformance suite on a real server
	local bin
	bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
	if [ -z "$bin" ]; then
		echo "skipped: postgres: no server is installed"
		return
	fi
	local port user=()
	port=$(free_port)
	mkdir "$dir/pg"
	if [ "$(id -u)" = 0 ]; then
		id postgres >/dev/null 2>&1 || { echo "skipped: postgres: no user to run it as"; return; }
		chown postgres "$dir/pg"
		user=(setpriv --reuid=postgres --regid=postgres --clear-groups)
	fi
	"${user[@]}" "$bin/initdb" -D "$dir/pg/data" -U tide -A trust >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log"; fail "initdb"; }
	"${user[@]}" "$bin/postgres" -D "$dir/pg/data" -p "$port" -c listen_addresses=127.0.0.1 -k "$dir/pg" >"$dir/pg.log" 2>&1 &
	pids+=($!)
	listens "$port"
	TIDEGATE_TEST_POSTGRES="postgres://tide@127.0.0.1:$port/postgres?sslmode=disable" go test -count=1 -run 'Store' ./sync/fleet || fail "the store on PostgreSQL"
}

go build -o "$dir/link" ./scripts/link || fail "build"
mkdir "$dir/certs"
"$dir/link" certs -dir "$dir/certs" || fail "certificates"

postgres_store

if ! command -v mosquitto >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	# The package starts its service where it can; policy-rc.d says no.
	[ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; made=1; }
	apt-get install -y -q mosquitto >"$dir/apt.log" 2>&1
	[ -z "${made:-}" ] || rm /usr/sbin/policy-rc.d
fi
if ! command -v mosquitto >/dev/null; then
	echo "skipped: mosquitto: not installed, and it cannot be installed here"
else
	port=$(free_port)
	sed -e "s|/etc/mosquitto/certs|$dir/certs|; s|/etc/mosquitto/mosquitto.acl|$PWD/packaging/mqtt/mosquitto.acl|" \
		-e "s|^listener 8883|listener $port 127.0.0.1|; s|^persistence true|persistence false|" \
		packaging/mqtt/mosquitto.conf >"$dir/mosquitto.conf"
	[ "$(id -u)" != 0 ] || echo "user root" >>"$dir/mosquitto.conf"
	mosquitto -c "$dir/mosquitto.conf" >"$dir/mosquitto.log" 2>&1 &
	pids+=($!)
	listens "$port"
	"$dir/link" conformance -dir "$dir/certs" -broker "tls://127.0.0.1:$port" || { tail -20 "$dir/mosquitto.log"; fail "mosquitto"; }

	if [ -n "${TIDEGATE_SLOW:-}" ]; then
		"$dir/link" slow -dir "$dir/certs" -broker "tls://127.0.0.1:$port" || fail "a slow line"
	fi

	go build -o "$dir/fleetsim" ./scripts/fleetsim || fail "build"
	"$dir/fleetsim" -n 200 -spread 2s -every 5s -steady 5s -back 3s || fail "a small fleet"

	port=$(free_port)
	printf 'listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nmax_packet_size 131072\nlog_type none\n' "$port" >"$dir/chaos.conf"
	[ "$(id -u)" != 0 ] || echo "user root" >>"$dir/chaos.conf"
	for on in ack puback token; do
		mkdir "$dir/$on"
		"$dir/link" chaos -dir "$dir/$on" -broker "tcp://127.0.0.1:$port" -serve "mosquitto -c $dir/chaos.conf" \
			-for "$([ $on = ack ] && echo "${TIDEGATE_CHAOS:-20s}" || echo 15s)" -delete-on "$on" || fail "chaos, delete on $on"
	done
fi

if ! (cd scripts/e2e && go build -o "$dir/nats" ./nats) >"$dir/nats.build" 2>&1; then
	echo "skipped: nats: $(tail -1 "$dir/nats.build")"
else
	port=$(free_port)
	"$dir/link" natsconf -dir "$dir/certs" -broker "tls://127.0.0.1:$port" >"$dir/nats.conf" || fail "nats.conf"
	"$dir/nats" "$dir/nats.conf" >"$dir/nats.log" 2>&1 &
	pids+=($!)
	listens "$port"
	"$dir/link" conformance -kind nats -dir "$dir/certs" -broker "tls://127.0.0.1:$port" || { tail -20 "$dir/nats.log"; fail "nats"; }
fi
