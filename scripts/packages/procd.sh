#!/bin/sh
# Runs inside the root of scripts/packages.sh: the procd script of the .ipk, with a stand-in for OpenWrt's
# rc.common that notes what it is asked for.
told=/tmp/told
: >$told
for f in procd_open_instance procd_set_param procd_close_instance procd_add_reload_trigger group_add_next user_add; do
	eval "$f() { echo \"$f \$*\" >>$told; }"
done
user_exists() { return 1; }
group_exists() { return 1; }
chown() { echo "chown $*" >>$told; }
. /etc/init.d/tidegate
start_service
service_triggers
for want in 'group_add_next tidegate' 'user_add tidegate .*/var/lib/tidegate /bin/false' 'chown tidegate:tidegate /var/lib/tidegate' \
	'procd_set_param command /usr/bin/tidegate run' 'procd_set_param user tidegate' 'procd_set_param respawn 3600 5 0' \
	'procd_set_param reload_signal HUP' 'procd_set_param no_new_privs 1' 'procd_close_instance' 'procd_add_reload_trigger tidegate'; do
	grep -q "^$want" $told || { echo "procd was not told: $want"; cat $told; exit 1; }
done
[ -d /var/lib/tidegate ] || { echo "no state folder"; exit 1; }
