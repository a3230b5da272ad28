#!/usr/bin/env bash
# Runs each block of README.md and docs/tutorial.md that is marked ```sh, in order, in a fresh
# folder, as a reader would. Blocks for other places are marked ```text.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
if [ -n "${TIDEGATE_BIN:-}" ]; then PATH=$TIDEGATE_BIN:$PATH; else make -s build; PATH=$root/bin:$PATH; fi
export PATH
rc=0
for page in README.md docs/tutorial.md; do
	work=$(mktemp -d /tmp/tidegate-docs-XXXXXX)
	awk '/^```sh$/ {on=1; printf "echo \"--- line %d\" >&2\n", NR; next} /^```/ {on=0} on' "$page" > "$work.script"
	echo "$page: $(grep -c '^echo "--- line' "$work.script" || true) blocks"
	# timeout gives the page a process group of its own and ends a page that waits for ever.
	if ! (cd "$work" && HOME=$work timeout 300 bash -euo pipefail -c 'trap "kill \$(jobs -p) 2>/dev/null || true; wait" EXIT; source "$0"' "$work.script") > "$work.out" 2>&1; then
		echo "$page: FAILED"
		cat "$work.out"
		[ -f "$work/device.log" ] && tail -20 "$work/device.log"
		rc=1
	fi
	rm -rf "$work" "$work.script" "$work.out"
done
exit $rc
