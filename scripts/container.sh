#!/usr/bin/env bash
# The container image for amd64, arm64 and arm/v7, as an OCI folder in dist/container, and a run of it:
# read-only, without capabilities or a network, in 256 MiB. Then the blocks of docs/install.md, as they stand there.
#   scripts/container.sh
#
#   VERSION, COMMIT, SOURCE_DATE_EPOCH   as the Makefile sets them: the same commit gives the same digest
# Needs buildah, and for the run podman and root; it installs them as root, or says what it skips.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "skipped: container: $*"; exit 0; }
: "${VERSION:=$(git describe --tags --always --dirty 2>/dev/null || echo dev)}"
: "${COMMIT:=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
if ! command -v buildah >/dev/null || ! command -v podman >/dev/null; then
	[ "$(id -u)" = 0 ] || skip "needs buildah and podman"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah podman crun >/dev/null || skip "buildah cannot be installed"
fi

t=$(mktemp -d)
export STORAGE_DRIVER=vfs
b=(buildah --root "$t/store" --runroot "$t/run")
trap 'chmod -R u+w "$t"; rm -rf "$t"' EXIT
ldflags="-s -w -buildid= -X tidegate/platform/buildinfo.version=$VERSION -X tidegate/platform/buildinfo.commit=$COMMIT -X tidegate/platform/buildinfo.date=$SOURCE_DATE_EPOCH"

"${b[@]}" manifest create tidegate >/dev/null
for a in amd64 arm64 arm/7; do
	arch=${a%/*} arm=; [ "$arch" = "$a" ] || arm=${a#*/}
	root=$t/$arch/rootfs
	mkdir -p "$root"/{usr/bin,etc/tidegate,usr/share/licences,var/lib,tmp} "$t/$arch/state"
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$root/usr/bin/tidegate" ./cmd/tidegate
	printf 'tidegate:x:65532:65532::/var/lib/tidegate:/bin/false\n' >"$root/etc/passwd"
	printf 'tidegate:x:65532:\n' >"$root/etc/group"
	printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
	cp packaging/config/tidegate.toml "$root/etc/tidegate/"
	cp LICENSE "$root/usr/share/licences/LICENSE"
	scripts/licences.sh "$root/usr/bin/tidegate" >"$root/usr/share/licences/third-party.txt"
	chmod 0700 "$t/$arch/state"
	find "$t/$arch" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	"${b[@]}" bud -q --isolation chroot --format docker --timestamp "$SOURCE_DATE_EPOCH" --platform "linux/$arch${arm:+/v$arm}" \
		--manifest tidegate -f packaging/container/Containerfile "$t/$arch" >/dev/null
	echo "linux/$a: tidegate $(stat -c %s "$root/usr/bin/tidegate") bytes"
done
mkdir -p dist
rm -rf dist/container
"${b[@]}" manifest push -q --all tidegate oci:dist/container:latest
echo "dist/container: $(sed -n 's/.*"digest":"\([^"]*\)".*/\1/p' dist/container/index.json)"

# The run. Some hosts mount the second version of control groups empty beside the first: it is
# hidden in a mount namespace of the run's own, as podman's runtime refuses the pair.
[ "$(id -u)" = 0 ] || skip "running it needs root"
p=(podman --storage-driver vfs --root "$t/pstore" --runroot "$t/prun" --cgroup-manager cgroupfs)
inside='if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec "$@"'
pod() { unshare -m --propagation private sh -c "$inside" sh "${p[@]}" "$@"; }
[ "$(go env GOARCH)" = amd64 ] || skip "the run is written for amd64"
pod pull -q oci:dist/container:latest >/dev/null
name=tidegate-test-$$
trap 'pod rm -f -t 0 $name >/dev/null 2>&1 || true; chmod -R u+w "$t"; rm -rf "$t"' EXIT
id=$(pod images -q | head -1)
pod run -d --name $name --read-only --cap-drop all --security-opt no-new-privileges --network none --memory 256m --pids-limit 256 \
	--ulimit nofile=1024:1024 --ulimit nproc=1024:1024 -v tidegate-state:/var/lib/tidegate "$id" 2>&1 >/dev/null || skip "podman does not run containers here"
for _ in $(seq 100); do
	[ "$(pod exec $name /usr/bin/tidegate health 2>/dev/null)" = ready ] && break
	sleep 0.2
done
[ "$(pod exec $name /usr/bin/tidegate health 2>/dev/null)" = ready ] || { pod logs $name | tail -20; echo "FAILED: not ready"; exit 1; }
user=$(pod exec $name /usr/bin/tidegate status --json 2>/dev/null | grep -c '"ready": true')
[ "$user" = 1 ] || { echo "FAILED: status"; exit 1; }
before=$(pod exec $name /usr/bin/tidegate status --json 2>/dev/null | sed -n 's/.*"device": *"\([^"]*\)".*/\1/p')
pod restart -t 10 $name >/dev/null
for _ in $(seq 100); do
	[ "$(pod exec $name /usr/bin/tidegate health 2>/dev/null)" = ready ] && break
	sleep 0.2
done
after=$(pod exec $name /usr/bin/tidegate status --json 2>/dev/null | sed -n 's/.*"device": *"\([^"]*\)".*/\1/p')
[ -n "$before" ] && [ "$before" = "$after" ] || { echo "FAILED: the device was $before and is $after"; exit 1; }
pod stop -t 20 $name >/dev/null
[ "$(pod inspect -f '{{.State.ExitCode}}' $name)" = 0 ] || { echo "FAILED: exit code $(pod inspect -f '{{.State.ExitCode}}' $name)"; exit 1; }
pod rm -f -t 0 $name >/dev/null 2>&1
echo "ok   runs read-only without capabilities in 256 MiB, keeps its keys, ends cleanly"

# The blocks of docs/install.md. "make container" is what was done above; podman keeps to the folder of this run, and
# asks for no limit that this machine may not give.
here=$t/here
mkdir -p "$here/bin"
ln -s "$PWD/dist" "$PWD/packaging" "$PWD/examples" "$here/"
CGO_ENABLED=0 go build -o "$here/bin/" ./cmd/tidectl
printf '#!/bin/sh\n[ "$*" = container ]\n' >"$here/bin/make"
cat >"$here/bin/podman" <<S
#!/usr/bin/env bash
args=()
while [ \$# -gt 0 ]; do
	case \$1 in --ulimit) shift ;; *) args+=("\$1") ;; esac
	shift
done
exec $(command -v podman) --storage-driver vfs --root "$t/pstore" --runroot "$t/prun" --cgroup-manager cgroupfs "\${args[@]}"
S
chmod 755 "$here/bin/"*
printf '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n' >"$t/containers.conf"
for b in container compose; do scripts/docblock.sh docs/install.md $b >"$here/block-$b"; done
command -v podman-compose >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends podman-compose >/dev/null || true
CONTAINERS_CONF=$t/containers.conf unshare -m -n --propagation private scripts/container/pasted.sh "$here"
