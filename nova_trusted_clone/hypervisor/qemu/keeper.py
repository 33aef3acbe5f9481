"""Keeps connections to a source's QEMU open when the process that uses them ends, however it ends.

A QEMU 7.2 with the mend for CVE-2024-7409 (Debian's) ends itself when an NBD client leaves whose disk is served by an I/O
thread, and with it the server. Xen's disks always are. A client whose connection QEMU itself closes, as it does when the
export is taken off, does no harm. So a process of its own, forked while the exporter is small, has a copy of each connection
and lets go of it only when QEMU has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading

from nova_trusted_clone.datapath import passing

LOG = logging.getLogger(__name__)
LIMIT_S = 10.0
_KEPT = b"k"
_DEAF = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Keeper:
    """The end of the process that uses the connections."""

    def __init__(self, line: socket.socket, pid: int) -> None:
        self._line = line
        self._lock = threading.Lock()
        self.pid = pid

    def keep(self, connection: socket.socket) -> None:
        """Have a connection kept; on return it is. One that is not can be used all the same."""
        with self._lock:
            try:
                socket.send_fds(self._line, [_KEPT], [connection.fileno()])
                passing.read_exactly(self._line, len(_KEPT))
            except OSError as error:
                LOG.warning("a connection to the source's QEMU is not kept open: %s", error)


def start() -> Keeper:
    """Fork the keeper. Call it before there are threads, and before anything is open that the keeper must not have."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ours.close()
            _become_deaf()
            _keep_all(theirs)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    ours.settimeout(LIMIT_S)
    return Keeper(ours, pid)


def _become_deaf() -> None:
    """What ends the exporter in good order must not end this before QEMU has let go."""
    os.setsid()
    for number in _DEAF:
        signal.signal(number, signal.SIG_IGN)


def _keep_all(line: socket.socket) -> None:
    """Until nobody asks any more and every connection was closed by its other end."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    # Nothing is read from the others: only their end is looked for.
    kept: set[int] = set()
    asked = True
    while asked or kept:
        for number, _event in poll.poll():
            if number != line.fileno():
                poll.unregister(number)
                os.close(number)
                kept.remove(number)
                continue
            found = _received(line)
            if not found:
                asked = False
                poll.unregister(line)
            for descriptor in found:
                kept.add(descriptor)
                poll.register(descriptor, 0)


def _received(line: socket.socket) -> tuple[int, ...]:
    """What is to be kept, acknowledged; nothing when the other end has ended."""
    found: tuple[int, ...] = ()
    with contextlib.suppress(OSError):  # of a user that was killed: that is its end, too
        _byte, found = passing.receive(line, len(_KEPT), 1)
        if found:
            line.sendall(_KEPT)
    return found
