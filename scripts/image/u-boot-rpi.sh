#!/usr/bin/env bash
# Debian's U-Boot for the 64-bit Raspberry Pi.
#   scripts/image/u-boot-rpi.sh FILE
# apt keeps its state for the other architecture in a folder of its own: the host's is not touched.
set -euo pipefail
d=$(mktemp -d)
trap 'rm -rf "$d"' EXIT
mkdir -p "$d"/state/lists/partial "$d"/cache/archives/partial "$d"/etc/apt.conf.d "$d"/etc/preferences.d
: >"$d/state/status"
apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
	awk '$1=="Debian" && !seen[$2,$3]++ {print $2, $3}' |
	while read -r uri suite; do echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"; done >"$d/etc/sources.list"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$d/state" -o Dir::State::status="$d/state/status"
	-o Dir::Cache="$d/cache" -o Dir::Etc="$d/etc" -o Dir::Etc::sourcelist="$d/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
	-o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$d" && "${apt[@]}" download u-boot-rpi)
dpkg -x "$d"/u-boot-rpi_*.deb "$d/x"
cp "$d/x/usr/lib/u-boot/rpi_arm64/u-boot.bin" "$1"
