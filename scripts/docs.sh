#!/usr/bin/env bash
# Runs every shell block of README.md and docs, page by page and in order, as a reader would: each
# page in a container of its own, booted by systemd on a throw-away copy of this machine's system
# with an empty home and a network of its own. The fixtures of a page, such as a broker, are in
# scripts/docs/setup. What cannot run here is counted and told with its reason.
#   scripts/docs.sh                  all pages
#   scripts/docs.sh docs/sticks.md   only this one
# It needs root, Linux with systemd-container, and what the pages use: Go, make, git, curl,
# python3, openssl, mosquitto.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
skip() { echo "skipped: docs: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "needs root for its containers"
for need in systemd-nspawn:systemd-container mosquitto:mosquitto curl:curl python3:python3-minimal openssl:openssl strace:strace keytool:default-jre-headless; do
	command -v "${need%%:*}" >/dev/null && continue
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need##*:}" >/dev/null || skip "${need##*:} cannot be installed"
done

work=$(mktemp -d /tmp/tidegate-docs-XXXXXX)
. scripts/docs/container.sh
trap 'container_stop; rm -rf "$work"' EXIT

mkdir -p "$work/give/bin"
CGO_ENABLED=0 go build -o "$work/give/bin/" ./cmd/tidegate ./cmd/tidectl ./scripts/docs ./scripts/docs/apim
git clone -q --bare . "$work/give/tidegate.git"
cp -r scripts/docs/shell.sh scripts/docs/setup packaging "$work/give/"
docs=$work/give/bin/docs
theirs=../shared/data/openapi/oai-examples/petstore-expanded.yaml # a document that is not ours
[ ! -f $theirs ] || cp $theirs "$work/give/petstore.yaml"

rc=0
for page in ${*:-$("$docs" pages)}; do
	if [ "$page" = docs/newcomer.md ] && [ ! -f "$work/give/petstore.yaml" ]; then
		echo "skipped: $page: ../shared/data is not here"
		continue
	fi
	name=$(basename "$page" .md) t0=$SECONDS
	{
		echo 'set -euo pipefail; . /opt/docs/shell.sh; trap '"'"'kill $(jobs -p) 2>/dev/null || true'"'"' EXIT'
		[ ! -f "scripts/docs/setup/$name.sh" ] || echo "at 'fixtures of $page'; . /opt/docs/setup/$name.sh"
		"$docs" script "$page"
		[ ! -f "scripts/docs/setup/$name.after.sh" ] || echo "at 'after $page'; . /opt/docs/setup/$name.after.sh"
		echo 'at end; stop; echo "all blocks ran"'
	} >"$work/give/page.sh"
	container_start "$work/give" /opt/docs || { rc=1; break; }
	# The output is judged, not the exit code alone: a page that ends early has not run.
	inside env -i PATH="/usr/local/bin:$(dirname "$(command -v go)"):/usr/sbin:/usr/bin:/sbin:/bin" HOME=/home/reader TERM=dumb LANG=C.UTF-8 \
		GOCACHE="$(go env GOCACHE)" GOMODCACHE="$(go env GOMODCACHE)" GOPROXY=off GOFLAGS=-mod=mod GOTOOLCHAIN=local \
		timeout "${LIMIT:-600}" bash -c 'cp /opt/docs/bin/* /usr/local/bin/; mkdir -p "$HOME"; cd "$HOME"; exec bash /opt/docs/page.sh' >"$work/out" 2>&1 </dev/null || true
	if [ "$(tail -n 1 "$work/out")" = "all blocks ran" ]; then
		echo "$page: $(grep -c "^--- $page" "$work/out") blocks, $((SECONDS - t0)) s"
	else
		rc=1
		echo "$page: FAILED after $(grep '^--- ' "$work/out" | tail -n 1)"
		tail -n 60 "$work/out"
		inside /usr/local/bin/tidegate status 2>&1 || true
		inside journalctl --no-pager -n 20 -u tidegate 2>/dev/null || true
	fi
	mkdir -p out/docs && cp "$work/out" "out/docs/$name.log"
	container_stop
done
"$docs" count
exit $rc
