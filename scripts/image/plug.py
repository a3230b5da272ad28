#!/usr/bin/env python3
"""Plug a stick into a running QEMU, or pull it, through its QMP socket.

    plug.py SOCKET IMAGE NAME       the machine has -device qemu-xhci,id=xhci
    plug.py SOCKET --pull NAME
"""
import json
import socket
import sys


def main(path, image, name):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    f = s.makefile("rw")
    f.readline()

    def ask(command, **arguments):
        f.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        f.flush()
        while True:
            answer = json.loads(f.readline())
            if "error" in answer:
                sys.exit("plug.py: %s: %s" % (command, answer["error"]["desc"]))
            if "return" in answer:
                return

    ask("qmp_capabilities")
    if image == "--pull":
        ask("device_del", id="stick-" + name)
        return
    ask("blockdev-add", **{"driver": "raw", "node-name": name,
                           "file": {"driver": "file", "filename": image}})
    ask("device_add", driver="usb-storage", bus="xhci.0", drive=name, id="stick-" + name, removable=True)


main(*sys.argv[1:])
