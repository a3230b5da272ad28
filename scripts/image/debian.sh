#!/usr/bin/env bash
# Packages of Debian for another processor, unpacked into a folder. A package of the kernel brings the one
# that it stands for.
#   scripts/image/debian.sh ARCH FOLDER PACKAGE…
# apt keeps its state for the other processor in a folder of its own: the host's is not touched.
set -euo pipefail
arch=$1 into=$2; shift 2
mkdir -p "$into"
into=$(realpath "$into")
d=$(mktemp -d)
trap 'rm -rf "$d"' EXIT
mkdir -p "$d"/state/lists/partial "$d"/cache/archives/partial "$d"/etc/apt.conf.d "$d"/etc/preferences.d
: >"$d/state/status"
apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
	awk '$1=="Debian" && !seen[$2,$3]++ {print $2, $3}' |
	while read -r uri suite; do echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"; done >"$d/etc/sources.list"
[ -s "$d/etc/sources.list" ] || { echo "debian.sh: apt has no lists of Debian: run apt-get update" >&2; exit 1; }
options=(-o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State="$d/state" -o Dir::State::status="$d/state/status"
	-o Dir::Cache="$d/cache" -o Dir::Etc="$d/etc" -o Dir::Etc::sourcelist="$d/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
	-o APT::Sandbox::User=root)
apt-get -qq "${options[@]}" update || echo "debian.sh: not all lists are there; going on with those that are" >&2
for p; do
	case $p in
	linux-image-*) p=$(apt-cache "${options[@]}" depends "$p" | awk '$1=="Depends:" && /linux-image/ {print $2; exit}') ;;
	esac
	(cd "$d" && apt-get -qq "${options[@]}" download "$p")
	for f in "$d"/*.deb; do
		dpkg -x "$f" "$into"
		basename "$f" .deb >>"$into/packages"
		rm "$f"
	done
done
