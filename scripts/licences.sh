#!/usr/bin/env bash
# The licence texts of everything that is linked into a program, on standard output.
#   scripts/licences.sh PROGRAM
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")/.."
go version -m "$program" | awk '$1=="dep"{print $2, $3}' | while read -r module version; do
	dir=$(go list -m -f '{{.Dir}}' "$module")
	echo "==== $module $version"
	found=$(find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'edl-*' -o -iname 'epl-*' \) | sort)
	[ -n "$found" ] || { echo "licences.sh: $module has no licence file" >&2; exit 1; }
	while read -r f; do echo "---- $(basename "$f")"; cat "$f"; echo; done <<<"$found"
done
echo "==== Go standard library $(go version -m "$program" | awk 'NR==1{print $2}')"
cat "$(go env GOROOT)/LICENSE"
