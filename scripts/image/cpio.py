#!/usr/bin/env python3
"""Write a folder as a cpio archive for a kernel (newc), with /dev/console and /dev/null: no root is
needed for them, and the same folder gives the same bytes.

    cpio.py FOLDER >ARCHIVE
"""
import os
import stat
import sys

number = 0


def entry(out, name, mode, data=b"", device=(0, 0)):
    global number
    number += 1
    name = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(name), 0]
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
    out.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))


def main(folder):
    out = sys.stdout.buffer
    for where, dirs, files in os.walk(folder):
        dirs.sort()
        inside = os.path.relpath(where, folder)
        if inside != ".":
            entry(out, inside, stat.S_IFDIR | 0o755)
        for f in sorted(files):
            path = os.path.join(where, f)
            with open(path, "rb") as data:
                mode = 0o755 if os.stat(path).st_mode & 0o100 else 0o644
                entry(out, os.path.normpath(os.path.join(inside, f)), stat.S_IFREG | mode, data.read())
    entry(out, "dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    entry(out, "dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    entry(out, "TRAILER!!!", 0)


main(*sys.argv[1:])
