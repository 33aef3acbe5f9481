"""Both ends know each other's exact certificate, or there is no channel."""

from __future__ import annotations

import os
import pathlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from nova_trusted_clone.transport import tls


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


class Server(threading.Thread):
    """Takes one connection, and says hello to a peer that is pinned."""

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext, pinned: list[bytes]
    ) -> None:
        super().__init__(daemon=True)
        self._listener, self._context, self._pinned = listener, context, pinned
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        raw, _ = self._listener.accept()
        raw.settimeout(5)
        try:
            with self._context.wrap_socket(raw, server_side=True) as channel:
                tls.require_peer(channel, self._pinned)
                channel.sendall(b"hello")
        except (OSError, tls.TransportError) as error:
            self.error = error
            raw.close()


def connect(listener: socket.socket, identity: tls.ChannelIdentity, peer: bytes) -> bytes:
    host, port = listener.getsockname()
    with tls.open_channel(identity, peer, host, port, 5) as channel:
        assert channel.version() == "TLSv1.3"
        return channel.recv(5)


def test_two_pinned_ends_meet(listener: socket.socket) -> None:
    near, far = tls.make_channel_identity(), tls.make_channel_identity()
    server = Server(
        listener, tls.server_context(far, [near.certificate_der]), [near.certificate_der]
    )
    assert connect(listener, near, far.certificate_der) == b"hello"
    server.join(5)
    assert server.error is None


def test_a_peer_added_later_is_let_in(listener: socket.socket) -> None:
    near, far = tls.make_channel_identity(), tls.make_channel_identity()
    context = tls.server_context(far)
    tls.add_peer(context, near.certificate_der)
    Server(listener, context, [near.certificate_der])
    assert connect(listener, near, far.certificate_der) == b"hello"


def test_a_stranger_is_refused(listener: socket.socket) -> None:
    near, far, stranger = (tls.make_channel_identity() for _ in range(3))
    server = Server(
        listener, tls.server_context(far, [near.certificate_der]), [near.certificate_der]
    )
    with pytest.raises(OSError):
        assert connect(listener, stranger, far.certificate_der) == b""
        raise ConnectionError("the stranger heard nothing")
    server.join(5)
    assert isinstance(server.error, ssl.SSLError)


def test_one_that_was_let_go_is_refused_though_its_handshake_succeeds(
    listener: socket.socket,
) -> None:
    near, far = tls.make_channel_identity(), tls.make_channel_identity()
    server = Server(listener, tls.server_context(far, [near.certificate_der]), [])
    with pytest.raises((OSError, AssertionError)):
        assert connect(listener, near, far.certificate_der) == b"hello"
    server.join(5)
    assert isinstance(server.error, tls.PeerRefused)


def test_an_impostor_is_refused(listener: socket.socket) -> None:
    near, far, impostor = (tls.make_channel_identity() for _ in range(3))
    Server(listener, tls.server_context(impostor, [near.certificate_der]), [near.certificate_der])
    with pytest.raises(ssl.SSLError):
        connect(listener, near, far.certificate_der)


def test_a_certificate_issued_by_the_pinned_one_is_refused(listener: socket.socket) -> None:
    """The pinned certificate is its own authority to OpenSSL; the exact comparison is what counts."""
    near, far, other = (tls.make_channel_identity() for _ in range(3))
    context = tls.server_context(far, [near.certificate_der, other.certificate_der])
    server = Server(listener, context, [near.certificate_der])
    with pytest.raises((OSError, AssertionError)):
        assert connect(listener, other, far.certificate_der) == b"hello"
    server.join(5)
    assert isinstance(server.error, tls.PeerRefused)


def test_the_key_is_never_shown_nor_left_open() -> None:
    before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    identity = tls.make_channel_identity()
    tls.server_context(identity)
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) == before
    assert "PRIVATE" not in repr(identity)
    assert len(identity.certificate_der) <= tls.MAX_CERTIFICATE_BYTES


@pytest.mark.parametrize("raw", [b"", b"x", os.urandom(300), bytes(4000)])
def test_what_is_no_certificate_is_not_pinned(raw: bytes) -> None:
    with pytest.raises(tls.TransportError, match="certificate"):
        tls.require_certificate(raw)
