#!/bin/sh
# Runs inside the root of scripts/packages.sh: the block of docs/install.md for OpenWrt, and what its service
# asked of rc.common and procd.
cd /tmp/here && . /tmp/block || exit 1
told=/tmp/told
for want in 'enable 95 10' 'group_add_next tidegate' 'user_add tidegate .*/var/lib/tidegate /bin/false' 'chown tidegate:tidegate /var/lib/tidegate' \
	'procd_set_param command /usr/bin/tidegate run' 'procd_set_param user tidegate' 'procd_set_param respawn 3600 5 0' \
	'procd_set_param reload_signal HUP' 'procd_set_param no_new_privs 1' 'procd_close_instance' 'procd_add_reload_trigger tidegate'; do
	grep -q "^$want" $told || { echo "procd was not told: $want"; cat $told; exit 1; }
done
[ -d /var/lib/tidegate ] || { echo "no state folder"; exit 1; }
