"""A relay on loopback that stands for the network: it can go silent, be cut, and come back."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Forwards each connection to a port, until told otherwise."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open = threading.Event()
        self._open.set()
        self._refusing = False
        self._sockets: list[socket.socket] = []
        self.forwarded = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """Forward nothing, keep the connections."""
        self._open.clear()

    def cut(self) -> None:
        """End every connection and take no new one."""
        self._refusing = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        """Forward again."""
        self._refusing = False
        self._open.set()

    def close(self) -> None:
        """End."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(target):
            while data := source.recv(1 << 16):
                self._open.wait()
                target.sendall(data)
                self.forwarded += len(data)


@contextlib.contextmanager
def relaying(port: int) -> Iterator[Relay]:
    """A relay that is closed in any case."""
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()
