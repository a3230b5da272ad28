#!/bin/sh
# Stands in for Alpine's apk in the root of scripts/packages.sh: "apk add --allow-untrusted FILE" does the
# steps of its installation in their order, for a package of this machine. Another command is an error.
set -e
[ "$#" = 3 ] && [ "$1 $2" = "add --allow-untrusted" ] || { echo "apk: the stand-in does not know: $*" >&2; exit 99; }
mkdir /tmp/apk
tar -C /tmp/apk --warning=no-unknown-keyword -xzf "$3"
cd /tmp/apk
grep -qx "arch = $(uname -m)" .PKGINFO || { echo "apk: not for $(uname -m)" >&2; exit 1; }
/bin/busybox sh .pre-install
cp -a [!.]* /
/bin/busybox sh .post-install
