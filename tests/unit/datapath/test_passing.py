"""Bytes and descriptors come over a unix socket whole, and no child inherits them."""

from __future__ import annotations

import os
import pathlib
import socket
from collections.abc import Iterator

import pytest

from nova_trusted_clone.datapath import passing


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    one, other = socket.socketpair()
    one.settimeout(5)
    with one, other:
        yield one, other


def test_what_was_passed_is_the_same_file_and_is_not_inherited(ends, tmp_path) -> None:
    one, other = ends
    path = tmp_path / "file"
    path.write_bytes(b"kept")
    with path.open("rb") as file:
        socket.send_fds(other, [b"head"], [file.fileno()])
    data, (found,) = passing.receive(one, 4, 3)
    assert data == b"head"
    assert not os.get_inheritable(found)
    assert os.pread(found, 9, 0) == b"kept"
    os.close(found)


def _open() -> int:
    return sum(1 for _ in pathlib.Path("/proc/self/fd").iterdir())


def test_more_than_allowed_do_not_come(ends) -> None:
    one, other = ends
    before = _open()
    socket.send_fds(other, [b"x"], [other.fileno()] * 5)
    _data, found = passing.receive(one, 1, 2)
    # The room for two is aligned by the kernel's macro: at most one more fits.
    assert 2 <= len(found) <= 3
    assert _open() == before + len(found)
    for descriptor in found:
        os.close(descriptor)


def test_bytes_that_come_in_pieces_are_read_whole(ends) -> None:
    one, other = ends
    other.sendall(b"ab")
    other.sendall(b"cd")
    assert passing.read_exactly(one, 4) == b"abcd"
    assert passing.read_exactly(one, 0) == b""


def test_a_connection_that_ends_too_soon_is_an_error(ends) -> None:
    one, other = ends
    other.sendall(b"ab")
    other.close()
    with pytest.raises(ConnectionResetError, match="mid message"):
        passing.read_exactly(one, 4)
