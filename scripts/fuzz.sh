#!/usr/bin/env bash
# Runs each fuzz target of the module for the given time: scripts/fuzz.sh [30s] [package pattern]
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
pattern=${2:-./...}
status=0
while read -r dir; do
	[ -n "$dir" ] || continue
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/^func //' | sort -u); do
		echo "== $target ($dir, $time)"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$dir" || status=1
	done
done < <(go list -f '{{.Dir}}' "$pattern" | while read -r d; do grep -lqE '^func Fuzz' "$d"/*_test.go 2>/dev/null && echo "$d"; done)
exit $status
