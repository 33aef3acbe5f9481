"""Open descriptors on their way from a privileged daemon to the service that asked for them.

oslo.privsep's channel carries values only. So the service listens on an abstract unix socket with a name that cannot be
guessed, and tells name and process id over that channel. Each side then looks who the other is (SO_PEERCRED, unix(7)): the
daemon connects to nobody but the asker, the service takes descriptors from root or its own user only.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Sequence

from nova_trusted_clone.datapath import passing

TIMEOUT_S = 10.0
_PREFIX = "nova-trusted-clone-"
_CREDENTIALS = struct.Struct("3i")


class HandOverFailed(Exception):
    """Descriptors did not come, or came from or would have gone to somebody else."""


class Receiver:
    """The service's end, for one answer; use it in a ``with``."""

    def __init__(self) -> None:
        self.name = _PREFIX + secrets.token_hex(16)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.settimeout(TIMEOUT_S)

    def __enter__(self) -> Receiver:
        self._listening.bind(f"\0{self.name}")
        self._listening.listen(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def receive(self, count: int) -> tuple[int, ...]:
        """Take exactly ``count`` descriptors; they are the caller's then, and are not inherited.

        :raises HandOverFailed: others came, or none
        """
        try:
            connection, _ = self._listening.accept()
        except TimeoutError:
            raise HandOverFailed(f"no descriptor came within {TIMEOUT_S:.0f} s") from None
        with connection:
            connection.settimeout(TIMEOUT_S)
            _pid, uid = peer(connection)
            if uid not in (0, os.geteuid()):
                raise HandOverFailed(f"user {uid} offers descriptors; root or this user expected")
            _byte, found = passing.receive(connection, 1, count)
        if len(found) != count:
            for descriptor in found:
                os.close(descriptor)
            raise HandOverFailed(f"{len(found)} descriptors came, {count} expected")
        return found


def send(name: str, receiver: int, descriptors: Sequence[int]) -> None:
    """The daemon's end: hand copies of ``descriptors`` to the process ``receiver``, which listens at ``name``.

    :raises HandOverFailed: another process listens there, or none
    """
    if not name.startswith(_PREFIX) or len(name) > 100:
        raise HandOverFailed("name: not one that a receiver makes")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(f"\0{name}")
        except OSError as error:
            raise HandOverFailed(f"nobody receives: {error.strerror}") from None
        pid, _uid = peer(connection)
        if pid != receiver:
            raise HandOverFailed(f"process {pid} listens, {receiver} expected")
        socket.send_fds(connection, [b"\0"], list(descriptors))


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process id and user of the other end of a unix socket, as the kernel has them from when it connected or listened."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return pid, uid
