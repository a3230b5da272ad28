#!/usr/bin/env bash
# End-to-end runs with real parts. Each run is a script of its own that installs what it needs,
# uses loopback addresses or network namespaces of its own, and ends what it starts.
#   scripts/e2e.sh            all runs
#   scripts/e2e.sh kill mqtt  only these; image-quick is the part of image that boots and serves
# A run that this machine cannot do prints "skipped: NAME: reason" and counts as neither.
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0 failed=()

run() { # name command…
	local name=$1; shift
	if [ ${#only[@]} -gt 0 ] && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
	echo
	echo "### e2e: $name"
	local t0=$SECONDS
	if "$@"; then
		passed=$((passed + 1))
		echo "### ok: $name ($((SECONDS - t0)) s)"
	else
		failed+=("$name")
		echo "### FAILED: $name ($((SECONDS - t0)) s)"
	fi
}

kill_loop() { TIDEGATE_KILLS=${TIDEGATE_KILLS:-40} go test -count=1 -run 'KilledUnderLoad' -v ./cmd/tidegate; }

only=("$@")
run kill kill_loop
for script in docs mqtt browser crash container helm nspawn packages bad-input qemu-user image; do
	if [ -x "scripts/$script.sh" ]; then run "$script" "scripts/$script.sh"; fi
done
# The part of image that boots and serves, for who asks for it: without names, image has run it.
[ ${#only[@]} = 0 ] || run image-quick scripts/image.sh quick
echo
echo "$passed passed, ${#failed[@]} failed"
if [ ${#failed[@]} -gt 0 ]; then
	echo "FAILED: ${failed[*]}"
	exit 1
fi
