#!/usr/bin/env python3
"""Run a command where programs of other processors run, in a user namespace of its own.

    binfmt.py COMMAND [ARGUMENT...]

The namespace has a table of binary formats of its own (Linux 6.7) with the handlers of
qemu-user-static, so nothing is registered on the host. QEMU_CPU chooses the processor. Needs
root; the ids inside are those outside.
"""
import ctypes
import os
import sys

CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def must(result, what):
    if result != 0:
        sys.exit("binfmt.py: %s: %s" % (what, os.strerror(ctypes.get_errno())))


def child(entered, mapped, argv):
    must(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "no namespace of its own")
    os.write(entered, b".")
    os.read(mapped, 1)
    os.setgid(0)
    os.setuid(0)
    must(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    must(libc.mount(b"binfmt_misc", b"/proc/sys/fs/binfmt_misc", b"binfmt_misc", 0, None), "table of formats")
    for name in ("aarch64", "arm"):
        with open("/usr/lib/binfmt.d/qemu-%s.conf" % name, "rb") as f:
            line = f.read().strip()
        with open("/proc/sys/fs/binfmt_misc/register", "wb", buffering=0) as f:
            f.write(line)
    os.execvp(argv[0], argv)


def main(argv):
    if not argv:
        sys.exit(__doc__)
    entered_r, entered_w = os.pipe()
    mapped_r, mapped_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(entered_r)
        os.close(mapped_w)
        child(entered_w, mapped_r, argv)
    os.close(entered_w)
    os.close(mapped_r)
    if os.read(entered_r, 1):
        for f in ("uid_map", "gid_map"):
            with open("/proc/%d/%s" % (pid, f), "w") as m:
                m.write("0 0 65536\n")
        os.write(mapped_w, b".")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


main(sys.argv[1:])
