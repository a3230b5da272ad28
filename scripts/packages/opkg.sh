#!/bin/sh
# Stands in for OpenWrt's opkg in the root of scripts/packages.sh: "opkg install FILE" does the steps of its
# installation in their order. Another command is an error.
set -e
[ "$#" = 2 ] && [ "$1" = install ] || { echo "opkg: the stand-in does not know: $*" >&2; exit 99; }
mkdir /tmp/opkg /tmp/opkg/control
tar -C /tmp/opkg -xzf "$2"
tar -C /tmp/opkg/control -xzf /tmp/opkg/control.tar.gz
/bin/busybox sh /tmp/opkg/control/preinst
tar -C / -xzf /tmp/opkg/data.tar.gz
/bin/busybox sh /tmp/opkg/control/postinst
