"""The drain keeps what comes, notices what contradicts, and always reads on."""

from __future__ import annotations

import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.qemu.drain import DrainedCapture
from nova_trusted_clone.hypervisor.qemu.holdback import HeldConnection
from nova_trusted_clone.hypervisor.qemu.memory import RamSource
from nova_trusted_clone.hypervisor.qemu.stream import PAGE

from . import streams

BLOCK = {"pc.ram": 300 * PAGE}
REGION = Region(1, "ram", "pc.ram", 300 * PAGE)


def content(number: int) -> bytes:
    return bytes([number % 255 + 1]) * PAGE


@pytest.fixture
def capture(tmp_path: pathlib.Path) -> Iterator[DrainedCapture]:
    made = DrainedCapture(tmp_path / "drain", tmp_path)
    made.start()
    yield made
    made.close()


def qemu(capture: DrainedCapture) -> socket.socket:
    with HeldConnection(capture.socket_path) as held:
        held.let_go()
        return socket.socket(fileno=os.dup(held.descriptor))


def await_end(capture: DrainedCapture) -> None:
    deadline = time.monotonic() + 10
    while not capture.ended:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def all_pages() -> bytes:
    records = [streams.page(0, content(0), "pc.ram")]
    records += [
        streams.zero(n) if n % 7 == 3 else streams.page(n, content(n)) for n in range(1, 300)
    ]
    return streams.part(*records)


def expected(first: int, last: int) -> bytes:
    return b"".join(bytes(PAGE) if n % 7 == 3 else content(n) for n in range(first, last))


def test_segments_are_served_from_what_came(capture: DrainedCapture) -> None:
    source = RamSource(REGION, capture)
    with qemu(capture) as stream:
        stream.sendall(streams.header(BLOCK) + all_pages() + streams.TAIL)
    await_end(capture)
    assert source.read(0) == expected(0, 256)
    assert source.read(1) == expected(256, 300)
    assert capture.failed_reason is None
    assert capture.progress() == (300, 300)


def test_a_page_read_in_place_that_the_stream_contradicts_fails_the_freeze(
    capture: DrainedCapture,
) -> None:
    capture.expect(BLOCK)
    capture.keep("pc.ram", 5, np.full((1, PAGE), 99, np.uint8))
    with qemu(capture) as stream:
        stream.sendall(streams.header(BLOCK) + all_pages() + streams.TAIL)
    await_end(capture)
    assert capture.failed_reason is not None
    assert capture.failed_reason.startswith("source.page.changed")
    with pytest.raises(SourceGone, match=r"source\.page\.changed"):
        RamSource(REGION, capture).read(1)


def test_pages_read_in_place_that_agree_are_counted(capture: DrainedCapture) -> None:
    capture.expect(BLOCK)
    capture.keep("pc.ram", 4, np.frombuffer(content(4) + content(5), np.uint8).reshape(2, PAGE))
    capture.zeros("pc.ram", np.array([10 * PAGE], np.uint64))
    with qemu(capture) as stream:
        stream.sendall(streams.header(BLOCK) + all_pages() + streams.TAIL)
    await_end(capture)
    assert (capture.failed_reason, capture.compared_pages) == (None, 3)


def test_a_stream_that_breaks_off_fails_the_freeze(capture: DrainedCapture) -> None:
    with qemu(capture) as stream:
        stream.sendall(streams.header(BLOCK) + streams.part(streams.page(0, content(0), "pc.ram")))
    await_end(capture)
    assert capture.failed_reason == "the source's stream ended before all pages had come"


def test_it_reads_on_after_nonsense_and_after_a_full_disk(
    capture: DrainedCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nova_trusted_clone.hypervisor.qemu.drain.os.pwrite", no_room)
    with qemu(capture) as stream:
        stream.sendall(streams.header(BLOCK) + all_pages())
        for _ in range(64):
            stream.sendall(bytes(1 << 20))
    await_end(capture)
    assert "No space left" in str(capture.failed_reason)
    assert capture.bytes_read > 64 << 20


def test_blocks_that_the_freeze_did_not_find_fail_it(capture: DrainedCapture) -> None:
    capture.expect({"pc.ram": 299 * PAGE})
    with qemu(capture) as stream:
        stream.sendall(streams.header(BLOCK) + all_pages() + streams.TAIL)
    await_end(capture)
    assert "the freeze found" in str(capture.failed_reason)


def test_it_ends_also_when_it_is_closed_while_qemu_connects(
    capture: DrainedCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, accepted = DrainedCapture._accept, threading.Event()

    def accept_and_wait(own: DrainedCapture, listening: socket.socket) -> socket.socket | None:
        connection = accept(own, listening)
        accepted.set()
        while not own._closed:
            time.sleep(0.002)
        return connection

    monkeypatch.setattr(DrainedCapture, "_accept", accept_and_wait)
    other = DrainedCapture(capture.socket_path.with_name("other"), capture.socket_path.parent)
    other.start()
    with qemu(other):
        assert accepted.wait(10)
        closing = threading.Thread(target=other.close, daemon=True)
        closing.start()
        closing.join(10)
        assert not closing.is_alive()
