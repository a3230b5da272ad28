#!/usr/bin/env bash
# Packages for every format and processor, with SBOM and checksums, in dist/packages. The
# same commit gives the same bytes.
#   scripts/package.sh [ARCH…]     ARCH: arm64 armv7 armv6 amd64 riscv64; default: all
#
#   VERSION, COMMIT, SOURCE_DATE_EPOCH   as the Makefile sets them
#   FORMATS          default "deb rpm apk ipk"
#   NAMES            default "tidegate tidectl"
#   OUT              default dist/packages
#   STATE_SCHEMA     form of the state that the packages claim to know, for tests
#   ANY_GO=1         build also with a Go that releases must not be built with
# Needs Go and gzip. The programs are built with what "go version" says: a release wants
# GOTOOLCHAIN=go1.26.11 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${VERSION:=$(git describe --tags --always --dirty 2>/dev/null || echo dev)}"
: "${COMMIT:=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export VERSION COMMIT SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C
out=${OUT:-dist/packages}
formats=${FORMATS:-deb rpm apk ipk}
names=${NAMES:-tidegate tidectl}
arches=("$@")
[ ${#arches[@]} -gt 0 ] || arches=(arm64 armv7 armv6 amd64 riscv64)
oldest=1.26.11 # of Go, for releases: fixes in net/http and HTTP/2

tools=$PWD/out/tools
mkdir -p "$tools" "$out"
out=$(realpath "$out")
tool() { # import path: a tool of scripts/tools/go.mod, built once
	local name=${1##*/}
	[ -x "$tools/$name" ] || go build -modfile=scripts/tools/go.mod -o "$tools/$name" "$1"
}
tool github.com/goreleaser/nfpm/v2/cmd/nfpm
tool github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

# The version in the forms of the package managers: all of them put ~ (apk: _pre) before the release.
plain=${VERSION#v}
[[ $plain =~ ^[0-9] && $plain == *.* ]] || plain=0.0.0-dev.$(git rev-list --count HEAD 2>/dev/null || echo 0).g${COMMIT}
main=${plain%%-*} rest=; [ "$main" = "$plain" ] || rest=${plain#*-}
pkgversion=$main${rest:+~${rest//-/.}}
apkversion=$main; [ -z "$rest" ] || apkversion=${main}_pre$(tr -dc 0-9 <<<"${rest%%.g*}")

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mtime=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

# What all processors share: pages, completions, texts. The programs of this machine say what they can.
ldflags="-s -w -buildid= -X tidegate/platform/buildinfo.version=$VERSION -X tidegate/platform/buildinfo.commit=$COMMIT -X tidegate/platform/buildinfo.date=$SOURCE_DATE_EPOCH"
build() { # GOARCH GOARM dir program…
	local arch=$1 arm=$2 dir=$3; shift 3
	for p in "$@"; do
		CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$dir/$p" "./cmd/$p"
	done
}
mkdir -p "$stage/common/scripts" "$stage/host" "$stage/man"
common=$stage/common
cp -r packaging "$common/"
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$stage/host/" ./cmd/tidegate ./cmd/tidectl
go run ./scripts/man -bin "$stage/host" -date "${mtime%%T*}" -version "$plain" -out "$stage/man"
for p in "$stage"/man/*; do gzip -9nc "$p" >"$common/$(basename "$p").gz"; done
for sh in bash zsh fish; do
	"$stage/host/tidegate" completion $sh >"$common/completion.$sh"
	"$stage/host/tidectl" completion $sh >"$common/tidectl.$sh"
done
cp packaging/deb/copyright "$common/copyright"
for n in $names; do
	printf '%s (%s) stable; urgency=medium\n\n  * Built from commit %s; docs/ tells what changed.\n\n -- Tidegate maintainers <maintainers@tidegate.invalid>  %s\n' \
		"$n" "$pkgversion" "$COMMIT" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9nc >"$common/$n.changelog.gz"
	scripts/licences.sh "$stage/host/$n" | gzip -9nc >"$common/$n.licences.gz"
done

# Installation scripts: one check and one reminder, put where they belong.
schema=${STATE_SCHEMA:-$("$stage/host/tidegate" version --json | sed -n 's/.*"state_schema": *\([0-9]*\).*/\1/p')}
fill() { # file machines
	sed -e "/^@REMEMBER@$/{r packaging/nfpm/remember
d}" -e "s/@SCHEMA@/$schema/g" -e "s/@MACHINES@/$2/g" "$1"
}

goversion() { go version -m "$1" | awk 'NR==1{sub("go","",$2); print $2}'; }
older() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" != "$2" ]; }

for a in "${arches[@]}"; do
	case $a in
	arm64) goarch=arm64 goarm= nf=arm64 file=arm64 machines=aarch64 ;;
	armv7) goarch=arm goarm=7 nf=arm7 file=armhf machines='armv7l|armv8l|aarch64' ;;
	armv6) goarch=arm goarm=6 nf=arm6 file=armv6 machines='armv6l|armv7l|armv8l|aarch64' ;;
	amd64) goarch=amd64 goarm= nf=amd64 file=amd64 machines=x86_64 ;;
	riscv64) goarch=riscv64 goarm= nf=riscv64 file=riscv64 machines=riscv64 ;;
	*) echo "package.sh: unknown processor $a: arm64 armv7 armv6 amd64 riscv64" >&2; exit 2 ;;
	esac
	s=$stage/$a
	cp -r "$common" "$s"
	build "$goarch" "$goarm" "$s" $names
	have=$(goversion "$s/tidegate")
	if older "$have" "$oldest" && [ "${ANY_GO:-}" != 1 ]; then
		echo "package.sh: built with Go $have; releases need $oldest or newer: GOTOOLCHAIN=go$oldest make package (tests: ANY_GO=1)" >&2
		exit 1
	fi
	for m in service openrc procd; do sed "s#{{Path}}#/usr/bin/tidegate#g" "platform/daemon/tidegate.$m" >"$s/tidegate.$m"; done
	fill packaging/nfpm/preinst "" >"$s/scripts/preinst"
	{ fill packaging/nfpm/preinst ""; fill packaging/procd/machine "$machines"; } >"$s/scripts/ipk.preinst"
	fill packaging/deb/prerm "" >"$s/scripts/deb.prerm"
	fill packaging/nfpm/rpm.prerm "" >"$s/scripts/rpm.prerm"
	fill packaging/openrc/pre-deinstall "" >"$s/scripts/apk.prerm"
	fill packaging/procd/prerm "" >"$s/scripts/ipk.prerm"
	find "$s" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	for n in $names; do
		for f in $formats; do
			[ "$f" != ipk ] || [ $n = tidegate ] || continue
			v=$pkgversion; [ "$f" != apk ] || v=$apkversion
			# Debian has its licence in the copyright file, and no field for it.
			sed "$([ "$f" != deb ] || echo /^license:/d)" "packaging/nfpm/$n.yaml" >"$s/nfpm.yaml"
			(cd "$s" && ARCH=$nf PKGVERSION=$v "$tools/nfpm" package -f nfpm.yaml -p "$f" -t "$out/${n}_${v}_$file.$f" >/dev/null)
		done
		"$tools/cyclonedx-gomod" bin -json -noserial -notimestamp -version "v$plain" -output "$out/${n}_${pkgversion}_$file.cdx.json" "$s/$n" 2>/dev/null
	done
	echo "$a: Go $have, tidegate $(stat -c %s "$s/tidegate") bytes"
done
(cd "$out" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs sha256sum >SHA256SUMS)
