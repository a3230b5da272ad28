# What the blocks of a page run in: sourced before them, in one shell with set -euo pipefail.
# Whatever a page started ends with it.
nth=0 started=()

at() { echo "--- $1"; }

# step COMMAND: tells the command of a transcript that comes, and how long the one before took.
step() {
	local now=${EPOCHREALTIME/[.,]/}
	[ -z "${before:-}" ] || printf '  [%d.%d s]\n' $(((now - before) / 1000000)) $(((now - before) / 100000 % 10))
	echo "\$ $1"
	before=${EPOCHREALTIME/[.,]/}
}

# start TEXT CODE: code that goes on until Ctrl-C, which the next one of a page comes after; it is up
# when it has printed TEXT. Lines "try: COMMAND" of it are tried, and the statuses are kept in tried.
start() {
	stop
	local log=$PWD/shown.$((++nth))
	setsid bash -euo pipefail -c "$2" >"$log" 2>&1 &
	started+=($!)
	local i
	for ((i = 0; i < 3000; i++)); do
		grep -qF -- "$1" "$log" && { shown=$log; try; return 0; }
		kill -0 "${started[-1]}" 2>/dev/null || break
		sleep 0.1
	done
	cat "$log"
	echo "it never printed: $1"
	return 1
}

try() {
	local line
	sleep 1 # the lines come together
	sed -n 's/^ *try: //p' "$shown" | while read -r line; do
		bash -c "$line" 2>/dev/null </dev/null | sed -n 's/^HTTP.1.1 \([0-9]*\).*/\1/p; /^[0-9]*$/p' | tail -n 1 | tee -a tried
	done
}

# typing ANSWERS CODE: code that asks its questions on a terminal.
typing() {
	local code=$PWD/typed.$((++nth)).sh
	printf '%s' "$2" >"$code"
	printf '%s\n' "$1" | script -qec "bash -euo pipefail $code" /dev/null
}

# printed TEXT: what the last line of a transcript has printed contains it, soon if it goes on.
printed() {
	local i
	for ((i = 0; i < 100; i++)); do
		grep -qF -- "$1" "$shown" && return 0
		sleep 0.1
	done
	echo "want: $1"
	echo "got:"
	cat "$shown"
	return 1
}

# stop ends what start began, as Ctrl-C does, and wants it to end well.
stop() {
	local p rc
	for p in "${started[@]}"; do
		kill -INT -- "-$p" 2>/dev/null || true
		rc=0
		wait "$p" || rc=$?
		[ $rc = 0 ] || [ $rc = 130 ] || { echo "Ctrl-C: exit code $rc"; return 1; }
	done
	started=()
}
