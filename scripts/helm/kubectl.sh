#!/usr/bin/env bash
# Stands in for kubectl where there is no cluster: knows the two commands of docs/install.md, looks at their
# arguments, and keeps secrets in the folder CLUSTER, where "manifest" is what helm would have installed.
#   KUBECTL    the program itself, if it is here: it reads the arguments too and does nothing
#   TIDEGATE   what a pod runs
set -euo pipefail
unknown() { echo "kubectl: the stand-in does not know: $*" >&2; exit 99; }
case "$1 ${2:-}" in
"create secret")
	[ -z "${KUBECTL:-}" ] || "$KUBECTL" "$@" --dry-run=client -o yaml >/dev/null
	[ "$3" = generic ] && [ ! -e "$CLUSTER/$4" ] || unknown "$@"
	mkdir "$CLUSTER/$4"
	for a in "${@:5}"; do
		[[ $a == --from-file=* ]] || unknown "$@"
		cp "${a#*=}" "$CLUSTER/$4/"
	done
	;;
exec\ *)
	set=${2%-0} # the pod of a stateful set of one
	[ "$set-0" = "$2" ] && [ "$3 $4" = "-- tidegate" ] || unknown "$@"
	grep -A3 '^kind: StatefulSet' "$CLUSTER/manifest" | grep -qx "  name: $set" || { echo "kubectl: no pod $2" >&2; exit 1; }
	# Its volume of secrets; the container takes in what is there.
	secret=$(sed -n 's/.*secretName: *\([^} ]*\).*/\1/p' "$CLUSTER/manifest")
	ls "$CLUSTER/$secret"/*.tideroot "$CLUSTER/$secret"/*.tide >/dev/null
	"$TIDEGATE" "${@:5}" --help >/dev/null
	echo "${*:4}" >"$CLUSTER/ran"
	;;
*) unknown "$@" ;;
esac
