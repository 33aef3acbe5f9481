"""Bytes and open descriptors from the other end of a unix socket (unix(7), SCM_RIGHTS)."""

from __future__ import annotations

import array
import socket


def receive(connection: socket.socket, size: int, most: int) -> tuple[bytes, tuple[int, ...]]:
    """At most ``size`` bytes, fewer when no more have come, and the descriptors that came with them.

    Like ``socket.recv_fds``, which in Python 3.11 leaves its flags out: a child could inherit what came. What comes beyond
    ``most`` descriptors is closed by the kernel.

    :raises OSError: of the connection
    """
    found = array.array("i")
    room = socket.CMSG_SPACE(most * found.itemsize)
    data, ancillary, _flags, _address = connection.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(raw[: len(raw) - len(raw) % found.itemsize])
    return data, tuple(found)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """``size`` bytes.

    :raises ConnectionResetError: it was closed before
    :raises OSError: of the connection
    """
    raw = bytearray()
    while len(raw) < size:
        part = connection.recv(size - len(raw))
        if not part:
            raise ConnectionResetError("the connection was closed in mid message")
        raw += part
    return bytes(raw)
