#!/usr/bin/env bash
# Checks the card that a power cut left (scripts/powercut runs it): what was said to be confirmed before
# the cut is still there, the rest is the old or the new.
#   IMG, ENTRY              the card, and the entry of the write log before which the power went
#   BUNDLE_AT, SYSTEM_AT    entries at which bundle 2 and system 2.0.0 had been confirmed
#   V2                      version and digest of that system
#   W                       folder with the programs; KEEP=no keeps no images for booting
set -euo pipefail
bad() { echo "$*"; exit 1; }
boot=$("$W/bootstate" "$IMG") || bad "no boot state: $boot"
have=$("$W/bootstate" -slot "$IMG" B 2>/dev/null) || have=none
case $boot in
"slot B,"*) [ "$have" = "$V2" ] || bad "slot B is to start, and holds $have" ;;
esac
if [ "$ENTRY" -ge "$SYSTEM_AT" ] && [ "$boot" != "slot B, good B, tries 0, given up none" ]; then bad "the system was confirmed: $boot"; fi
"$W/bootstate" -slot "$IMG" A >/dev/null || bad "slot A is damaged"

mnt=$W/mnt
mkdir -p "$mnt"
read -r start size < <(sfdisk -J "$IMG" | python3 -c 'import json, sys; p = json.load(sys.stdin)["partitiontable"]["partitions"][3]; print(p["start"] * 512, p["size"] * 512)')
mount -o "loop,offset=$start,sizelimit=$size" "$IMG" "$mnt" || bad "the data partition does not mount"
as=(setpriv --reuid 500 --regid 500 --clear-groups)
export TIDEGATE_ADMIN_SOCKET=$mnt/tidegate/s
"${as[@]}" "$W/tidegate" run --config= --data "$mnt/tidegate" --set listen.http=127.0.0.1:0 --set listen.https= --set admin.listen= >"$W/run.log" 2>&1 &
device=$!
out=
for _ in $(seq 300); do
	out=$("${as[@]}" "$W/tidegate" status --json 2>/dev/null) && break
	kill -0 $device 2>/dev/null || break
	sleep 0.1
done
kill $device 2>/dev/null || true
wait $device || true
umount "$mnt"
[ -n "$out" ] || bad "the device does not start: $(tail -2 "$W/run.log")"
read -r mode device seq locked < <(python3 -c '
import json, sys
s = json.load(sys.stdin)
good = s["bundle"].get("last_known_good") or {}
print(s["mode"], s["device"], good.get("seq", 0), s["trust"].get("locked", "no").replace(" ", "_"))' <<<"$out")
[ "$mode" = normal ] && [ "$locked" = no ] || bad "mode $mode, locked $locked"
[ "$seq" = 2 ] || { [ "$seq" = 1 ] && [ "$ENTRY" -lt "$BUNDLE_AT" ]; } || bad "bundle $seq is the good one"
[ -e "$W/device" ] || echo "$device" >"$W/device"
[ "$device" = "$(cat "$W/device")" ] || bad "another device: $device"
dd if="$IMG" of="$W/part" bs=1M iflag=skip_bytes,count_bytes skip="$start" count="$size" conv=sparse status=none
e2fsck -fn "$W/part" >"$W/fsck" 2>&1 || bad "e2fsck: $(tail -3 "$W/fsck")"
echo "$boot; slot B ${have%% *}; bundle $seq"
if [ "${KEEP:-yes}" = yes ]; then
	n=$(cat "$W/checked" 2>/dev/null || echo 0)
	echo $((n + 1)) >"$W/checked"
	if [ $((n % 8)) = 3 ]; then cp --sparse=always "$IMG" "$W/cut-$n.img"; fi
fi
