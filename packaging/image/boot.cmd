# The boot loader's script: two system slots, a count of tries, a way back. It is compiled by
# scripts/mkimage.sh. No write of it can be torn into a card that does not boot.
#
# The card: an MBR with 1 FAT (this script, and what the owner puts there), 2 system A, 3 system
# B, 4 data. A slot begins with its squashfs; 64 MiB later stands one sector with ZSECT, the
# length of the kernel in sectors (hex), and what the system says of itself; 4 KiB after it the
# kernel: gzipped on 64 bit; on 32 bit an initramfs of ISECT sectors and the zImage behind it, which
# needs the memory behind itself.
#
# The boot state: two records of one sector, at 0x100 and 0x400, in front of the first partition, in the
# checked form of "env export -c" (tidegate/platform/board reads and writes the same):
#   SLOT  what to boot    GOOD  the last slot known to work    TRIES  boots left to SLOT (hex)
#   BACK  the slot that was given up, or none       GEN  0, 1, 2, 0, … : which record is newer
# The older record is the one that is overwritten.
setenv buf ${scriptaddr}
setexpr buf ${scriptaddr} + 10000
setenv SLOT; setenv GOOD; setenv TRIES; setenv GEN; setenv BACK
setenv gen1; setenv gen2
${devtype} dev ${devnum}
if ${devtype} read ${buf} 100 1; then
  if env import -c ${buf} 200 SLOT GOOD TRIES GEN BACK; then
    setenv gen1 ${GEN}; setenv slot1 ${SLOT}; setenv good1 ${GOOD}; setenv tries1 ${TRIES}; setenv back1 ${BACK}
  fi
fi
if ${devtype} read ${buf} 400 1; then
  if env import -c ${buf} 200 SLOT GOOD TRIES GEN BACK; then setenv gen2 ${GEN}; fi
fi
# Which record counts; the next one goes where the other is.
setenv next 400
if test "${gen1}${gen2}" = "01" -o "${gen1}${gen2}" = "12" -o "${gen1}${gen2}" = "20"; then
  setenv next 100
elif test -n "${gen1}"; then
  setenv SLOT ${slot1}; setenv GOOD ${good1}; setenv TRIES ${tries1}; setenv GEN ${gen1}; setenv BACK ${back1}
elif test -n "${gen2}"; then
  setenv next 100
else
  setenv SLOT A; setenv GOOD A; setenv TRIES 0; setenv GEN 2; setenv BACK none
fi
echo "tidegate: slot ${SLOT}, good ${GOOD}, tries ${TRIES}"

if test "${SLOT}" != "${GOOD}"; then
  if test "${TRIES}" = "0"; then
    echo "tidegate: slot ${SLOT} is given up, back to ${GOOD}"
    setenv BACK ${SLOT}; setenv SLOT ${GOOD}
  else
    setexpr TRIES ${TRIES} - 1
  fi
  if test "${GEN}" = "0"; then setenv GEN 1; elif test "${GEN}" = "1"; then setenv GEN 2; else setenv GEN 0; fi
  env export -c -s 200 ${buf} SLOT GOOD TRIES GEN BACK
  ${devtype} write ${buf} ${next} 1
fi

if test "${devtype}" = "mmc"; then
  setenv packed 10000000; setenv serial "console=ttyS0,115200 console=ttyAMA1,115200 console=ttyAMA0,115200"
else
  setenv packed 50000000; setenv serial "console=ttyAMA0"
fi
# The description of the board: from the firmware, else from the boot partition, else U-Boot's own.
if test -n "${fdt_addr}"; then
  setenv tree ${fdt_addr}
else
  setenv tree ${fdtcontroladdr}
  for d in / /dtb/; do
    if load ${devtype} ${devnum}:1 ${fdt_addr_r} ${d}${fdtfile}; then setenv tree ${fdt_addr_r}; fi
  done
fi
# A slot that does not even load lets the other one in at once.
if test "${SLOT}" = "B"; then setenv order "B A"; else setenv order "A B"; fi
for s in ${order}; do
  if test "${s}" = "B"; then setenv p 3; else setenv p 2; fi
  part uuid ${devtype} ${devnum}:${p} puuid
  part start ${devtype} ${devnum} ${p} at
  setexpr at ${at} + 20000
  setenv ZSECT; setenv ISECT
  ${devtype} read ${buf} ${at} 1
  if env import -c ${buf} 200 ZSECT ISECT; then
    setexpr at ${at} + 8
    setenv bootargs "${serial} root=PARTUUID=${puuid} rootfstype=squashfs ro rootwait init=/init panic=5 quiet cgroup_enable=memory tide.slot=${s} tide.want=${SLOT} tide.back=${BACK} @ARGS@"
    if test -n "${ISECT}"; then
      ${devtype} read ${ramdisk_addr_r} ${at} ${ZSECT}
      setexpr size ${ISECT} * 200
      setexpr zimage ${ramdisk_addr_r} + ${size}
      bootz ${zimage} ${ramdisk_addr_r}:${size} ${tree}
    else
      ${devtype} read ${packed} ${at} ${ZSECT}
      if unzip ${packed} ${kernel_addr_r}; then booti ${kernel_addr_r} - ${tree}; fi
    fi
  fi
  echo "tidegate: slot ${s} does not load"
done
sleep 2
reset
