#!/usr/bin/env bash
# The two blocks of docs/install.md for containers, as they stand there. Runs inside the network and mount
# namespaces of scripts/container.sh, in which nothing else has the ports.
#   pasted.sh FOLDER     bin: tidectl, and what stands for make and podman; dist, packaging and examples: those of the repository
set -euo pipefail
cd "$1"
fail() { echo "FAILED: docs/install.md: $*"; cat log; exit 1; }
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
ip link set lo up
export PATH=$PWD/bin:$PATH
podman run --rm -p 9090:9090 localhost/dist/container:latest version >log 2>&1 ||
	{ tail -n 2 log; echo "skipped: container: docs/install.md: podman publishes no ports here"; exit 0; }
for k in root release; do tidectl keys new $k.key --no-passphrase --role $k; done >log 2>&1 || fail keys
tidectl trust init -o site.tideroot --root root.key --release release.key --key root.key >log 2>&1 || fail root
tidectl build examples/meters -o site.tide --key release.key --root site.tideroot --seq 1 >log 2>&1 || fail bundle
tidectl trust show site.tideroot --json | sed -n 's/.*"fingerprint": *"\([0-9a-f]*\)".*/\1/p' >fingerprint
cp packaging/config/tidegate.toml .
mkdir site && cp site.tideroot site.tide site/
asks_for_token() { # a call of the bundle's API, through the published port
	for _ in $(seq 50); do
		[ "$(curl -s -o /dev/null -m 5 -w '%{http_code}' http://127.0.0.1:9090/meters/1.0/readings)" = 401 ] && return 0
		sleep 0.2
	done
	return 1
}
for name in container compose; do
	if [ $name = compose ] && ! command -v podman-compose >/dev/null; then echo "skipped: container: compose: no podman-compose"; continue; fi
	timeout 300 bash -euo pipefail "block-$name" >log 2>&1 || fail "$name"
	asks_for_token || fail "$name: bundle 1 does not serve"
	podman ps -aq | xargs -r podman rm -f -t 0 >/dev/null 2>&1
	echo "ok   docs/install.md as pasted: $name"
done
