"""A port of a namespace on loopback: bytes go both ways, and an end on either side is an end on the other."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from labkit import forward
from labkit.errors import LabError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="setns(2) wants privileges")


@contextlib.contextmanager
def _shouting() -> Iterator[int]:
    """A server that gives back in capitals what it got when the other side has no more to say."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = server.accept()
                    with taken, taken.makefile("rb") as file:
                        taken.sendall(file.read().upper())

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@contextlib.contextmanager
def _forwarding(target: int) -> Iterator[int]:
    with forward.Forwarder(0, os.getpid(), ("127.0.0.1", target)) as forwarder:
        threading.Thread(target=forwarder.serve_forever, daemon=True).start()
        yield forwarder.port
        forwarder.shutdown()


def _ask(port: int, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_what_is_sent_is_answered() -> None:
    with _shouting() as inner, _forwarding(inner) as port:
        assert _ask(port, b"page " * 50_000) == b"PAGE " * 50_000
        assert _ask(port, b"another") == b"ANOTHER"


def test_where_nobody_listens_the_connection_ends() -> None:
    # Bound all the while, or the forwarder itself might be given the port.
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        nobody = mute.getsockname()[1]
        with _forwarding(nobody) as port, contextlib.suppress(ConnectionError):
            assert _ask(port, b"x") == b""


def test_a_port_that_is_taken_is_told() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(LabError, match="give another --port"),
    ):
        forward.Forwarder(taken.getsockname()[1], os.getpid(), ("127.0.0.1", 1))
