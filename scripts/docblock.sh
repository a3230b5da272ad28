#!/usr/bin/env bash
# Prints the fenced block of a document that stands behind the comment "run: NAME".
#   scripts/docblock.sh FILE NAME
awk -v want="<!-- run: $2 -->" '
	$0 == want { found = 1; next }
	found && /^```/ { if (inside) exit; inside = 1; next }
	inside { print; n++ }
	END { if (!n) { print "docblock.sh: no block " want > "/dev/stderr"; exit 1 } }' "$1"
