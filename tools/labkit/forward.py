"""A port of a lab's namespace on this machine's loopback, for a browser: as long as the command runs."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading

from labkit import netns
from labkit.errors import LabError

LOOPBACK = "127.0.0.1"
CONNECT_LIMIT_S = 10.0
_CHUNK_BYTES = 64 * 1024


class Forwarder(socketserver.ThreadingTCPServer):
    """Takes connections on loopback, and makes one inside for each.

    :ivar holder: a process of the network namespace
    :ivar target: the address inside
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, holder: int, target: tuple[str, int]) -> None:
        """:raises LabError: when the port is taken"""
        self.holder = holder
        self.target = target
        try:
            super().__init__((LOOPBACK, port), _Relay)
        except OSError as error:
            raise LabError(f"{LOOPBACK}:{port}: {error.strerror}; give another --port") from error

    @property
    def port(self) -> int:
        """The one that it listens at."""
        return int(self.server_address[1])


class _Relay(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Carry bytes both ways until one side has no more."""
        server = self.server
        assert isinstance(server, Forwarder)
        try:
            # A socket stays in the namespace of the thread that made it.
            inner = netns.call(
                server.holder,
                lambda: socket.create_connection(server.target, CONNECT_LIMIT_S),
            )
        except OSError:
            return  # the browser sees the connection end, as it would without us
        with inner:
            inner.settimeout(None)
            back = threading.Thread(target=_pump, args=(inner, self.request), daemon=True)
            back.start()
            _pump(self.request, inner)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
