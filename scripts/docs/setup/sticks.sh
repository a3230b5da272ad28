# A device that was enrolled, serves a bundle and has recorded calls; a stick, which is put in where
# the page has copied the last file to it. The folder devices is at the office. The stick is a file
# system in memory: test machines have no FAT driver, so the device is told by strace that it is one.
. /opt/docs/setup/site.sh
build --seq 1 -o one.tide
build --seq 2 -o site.tide
mkdir -p /etc/tidegate /media/stick /mnt/stick
printf '[usb]\nmounts = ["/media"]\n[events]\ninterval = "1s"\n' >/etc/tidegate/tidegate.toml
tidegate trust install --fingerprint "$(fingerprint)" site.tideroot
tidegate enroll >/dev/null
tidectl fleet enroll *.tideenroll --root site.tideroot --key release.key --product tidegate-sample --channel stable >/dev/null
tidegate apply devices/*.tidedevice
strace -f -o /dev/null -e trace=statfs -e inject=statfs:poke_exit=@arg2=444d000000000000 tidegate run 2>device.log &
until tidegate health >/dev/null 2>&1; do sleep 0.1; done
tidegate apply --no-wait one.tide || test $? = 75
tidegate confirm
for i in 1 2 3; do curl -s -o /dev/null http://127.0.0.1:9090/meters/1.0/status; done
tidegate events export >calls && [ "$(grep -c '"status"' calls)" -ge 3 ]
mount -t tmpfs stick /mnt/stick && mount --bind /mnt/stick /media/stick
cp() {
	command cp "$@"
	umount /media/stick && sleep 3 && mount --bind /mnt/stick /media/stick # out of the workstation, into the device
	until cat /media/stick/tide/out/*/status.txt >/dev/null 2>&1; do sleep 0.2; done
}
