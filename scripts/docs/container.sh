# A container on a throw-away copy of this machine's system: sourced by scripts/docs.sh.
# $work is a folder of the caller's. It ends what it starts, by its id.
leader= nspawn= boxes=0 box=

# inside COMMAND…: runs it in the container.
inside() { nsenter -t "$leader" -m -p -n -u -i -C -- "$@"; }

# container_start GIVE PLACE: boots; the folder GIVE is copied to PLACE.
container_start() {
	box=tidegate-docs-$$-$((++boxes))
	local dir=$work/$box state= c
	mkdir "$dir" "$dir/top" "$dir/root"
	local args=(--boot -D "$dir/root" -M "$box" --register=no --keep-unit --private-network --console=pipe --resolv-conf=off --link-journal=no)
	local launch=(unshare -m --propagation private)
	# On a host with version 1 control groups the container gets folders of its own, so that its
	# systemd may write limits; with version 2 nspawn delegates by itself.
	if [ -d /sys/fs/cgroup/memory ]; then
		args+=(--private-users=identity)
		launch=(bash -c 'for c in cpu cpuacct memory pids blkio systemd freezer; do d=/sys/fs/cgroup/$c/$0; mkdir -p "$d" && echo $$ >"$d/cgroup.procs"; done; exec unshare -C -m --propagation private "$@"' "$box")
	fi
	setsid "${launch[@]}" bash -euc 'mount -t tmpfs tmpfs "$0/top"; mkdir -p "$0/top/up$2" "$0/top/work"; cp -a "$1/." "$0/top/up$2"
		mount -t overlay -o lowerdir=/,upperdir="$0/top/up",workdir="$0/top/work" overlay "$0/root"; shift 2; exec "$@"' \
		"$dir" "$1" "$2" systemd-nspawn "${args[@]}" systemd.unit=basic.target </dev/null >"$dir/console" 2>&1 &
	nspawn=$!
	for _ in $(seq 600); do
		kill -0 "$nspawn" 2>/dev/null || break
		leader=$(pgrep -P "$nspawn" -x systemd | head -n 1) || leader=
		if [ -n "$leader" ]; then
			state=$(inside systemctl is-system-running 2>/dev/null) || true
			case $state in running | degraded) return 0 ;; esac
		fi
		sleep 0.1
	done
	cat "$dir/console"
	echo "the container did not start: ${state:-no answer}"
	return 1
}

container_stop() {
	local c
	if [ -n "$leader" ] && kill -0 "$leader" 2>/dev/null; then inside systemctl poweroff >/dev/null 2>&1 || true; fi
	for _ in $(seq 100); do
		[ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null || break
		sleep 0.1
	done
	# A killed nspawn leaves the inner systemd running: both go.
	if [ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null; then kill -9 "$nspawn" "$leader" 2>/dev/null || true; fi
	[ -z "$nspawn" ] || wait "$nspawn" 2>/dev/null || true
	for c in /sys/fs/cgroup/*/"$box"; do
		[ -d "$c" ] || continue
		for _ in $(seq 20); do
			find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
			[ -d "$c" ] || break
			sleep 0.1
		done
	done
	leader= nspawn=
}
