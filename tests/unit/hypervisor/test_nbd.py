"""Frozen disks over NBD."""

from __future__ import annotations

import pathlib
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.qemu.nbd import DiskSource, NbdClient, NbdError

from .nbdserver import Server, chunk, option_reply

MIB = 1 << 20
CONTENT = bytes(MIB) + bytes(range(256)) * 4096 + b"end!" * 1000


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    made = Server(tmp_path / "nbd", CONTENT)
    yield made
    made.close()


def test_segments_are_read_and_holes_are_not(server: Server, tmp_path: pathlib.Path) -> None:
    source = DiskSource(Region(1, "disk", "vda", len(CONTENT)), tmp_path / "nbd", "vda")
    assert b"".join(source.read(index) for index in range(3)) == CONTENT
    source.close()
    assert server.commands[:5] == [7, 7, 0, 7, 0]


def test_a_connection_on_which_a_read_failed_is_closed(
    server: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DiskSource(Region(1, "disk", "vda", len(CONTENT)), tmp_path / "nbd", "vda")
    closed: list[NbdClient] = []

    def close(client: NbdClient) -> None:
        closed.append(client)

    monkeypatch.setattr(NbdClient, "close", close)
    with monkeypatch.context() as broken:
        broken.setattr(NbdClient, "zero", fail_with("a reply to something that was not asked"))
        with pytest.raises(SourceGone, match="was not asked"):
            source.read(0)
    assert len(closed) == 1
    assert b"".join(source.read(index) for index in range(3)) == CONTENT
    assert len(closed) == 1


def fail_with(reason: str) -> Callable[..., bool]:
    def fail(*_: object) -> bool:
        raise NbdError(reason)

    return fail


def test_an_export_of_another_size_is_not_the_frozen_disk(
    server: Server, tmp_path: pathlib.Path
) -> None:
    source = DiskSource(Region(1, "disk", "vda", len(CONTENT) - 4096), tmp_path / "nbd", "vda")
    with pytest.raises(SourceGone, match="frozen were"):
        source.read(0)


def test_a_server_that_is_not_there(tmp_path: pathlib.Path) -> None:
    source = DiskSource(Region(1, "disk", "vda", 4096), tmp_path / "nbd", "vda")
    with pytest.raises(SourceGone, match="No such file"):
        source.read(0)


def test_a_client_that_was_too_slow_for_the_server_connects_again(tmp_path: pathlib.Path) -> None:
    """QEMU drops a client that has not agreed on an export within ten seconds."""
    server = Server(tmp_path / "nbd", CONTENT, drops=3)
    source = DiskSource(Region(1, "disk", "vda", len(CONTENT)), tmp_path / "nbd", "vda")
    assert source.read(1) == CONTENT[MIB : 2 * MIB]
    source.close()
    server.close()


def test_not_for_ever(tmp_path: pathlib.Path) -> None:
    server = Server(tmp_path / "nbd", CONTENT, drops=4)
    source = DiskSource(Region(1, "disk", "vda", len(CONTENT)), tmp_path / "nbd", "vda")
    with pytest.raises(SourceGone, match=r"closed the connection|went away"):
        source.read(1)
    server.close()


def conversation(*answers: bytes) -> NbdClient:
    """A client of a server that says ``answers`` whatever it is asked."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    hello = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
    info = struct.pack(">HQH", 0, 8192, 3)
    options = option_reply(8, 1) + option_reply(10, 4, struct.pack(">I", 1) + b"base:allocation")
    options += option_reply(10, 1) + option_reply(7, 3, info) + option_reply(7, 1)
    theirs.sendall(hello + options + b"".join(answers))
    theirs.shutdown(socket.SHUT_WR)
    client = NbdClient.over(ours, "vda")
    # The server hears what it is asked, and lives as long as the client.
    setattr(client, "peer", theirs)  # noqa: B010
    return client


def at(offset: int) -> bytes:
    return struct.pack(">Q", offset)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (chunk(9, 1, at(0) + bytes(4096), True), "not asked"),
        (chunk(1, 1, at(4096) + bytes(4096), True), "beyond what was asked"),
        (chunk(1, 1, at(0) + bytes(4095), True), "4095 bytes of 4096"),
        (chunk(1, 1, at(0) + bytes(5000), True), "more than was asked"),
        (chunk(1, 2, at(0) + struct.pack(">I", 1 << 31), True), "beyond what was asked"),
        (chunk(1, 2, at(0), True), "malformed hole"),
        (chunk(1, 0x8001, struct.pack(">IH", 5, 3) + b"bad", True), r"error 5 \(bad\)"),
        (chunk(1, 1, at(0) + bytes(100), False), "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_a_wrong_answer_is_refused(answer: bytes, reason: str) -> None:
    with pytest.raises(NbdError, match=reason):
        conversation(answer).read(0, 4096)


def test_a_hole_in_an_answer_reads_as_zeros() -> None:
    answer = chunk(1, 2, at(0) + struct.pack(">I", 2048), False) + chunk(
        1, 1, at(2048) + b"x" * 2048, True
    )
    assert conversation(answer).read(0, 4096) == bytes(2048) + b"x" * 2048
