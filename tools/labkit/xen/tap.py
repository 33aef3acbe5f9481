"""A cable from a network of the lab's to an emulated machine's card."""

from __future__ import annotations

import fcntl
import os
import struct

from labkit import netns
from labkit.node import Node

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
DEVICE = "/dev/net/tun"


def plug(node: Node, bridge: str, name: str) -> int:
    """Make tap ``name`` on a bridge of ``node``; its descriptor, for QEMU. The tap goes when that is closed.

    :raises OSError: when the kernel does not let it
    """

    def make() -> int:
        tap = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        return tap

    tap = netns.call(node.sandbox.holder.pid, make)
    try:
        node.run(["ip", "link", "set", name, "master", bridge, "up"])
    except BaseException:
        os.close(tap)
        raise
    return tap
