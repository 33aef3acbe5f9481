"""QEMU's stream is read whole, in any pieces, and nothing malformed passes."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu.stream import PAGE, Addresses, Pages, StreamParser

from . import streams

BLOCKS = {"pc.ram": 64 * PAGE, "vga.vram": 8 * PAGE}


class Collector:
    """Keeps what the parser tells."""

    def __init__(self) -> None:
        self.found: tuple[tuple[str, int], ...] = ()
        self.memory = {block: bytearray(b"?" * size) for block, size in BLOCKS.items()}
        self.calls = 0
        self.over = False

    def blocks(self, found: tuple[tuple[str, int], ...]) -> None:
        self.found = found

    def pages(self, block: str, addresses: Addresses, data: Pages) -> None:
        self.calls += 1
        for address, page in zip(addresses.tolist(), data, strict=True):
            self.memory[block][address : address + PAGE] = page.tobytes()

    def zeros(self, block: str, addresses: Addresses) -> None:
        self.calls += 1
        for address in addresses.tolist():
            self.memory[block][address : address + PAGE] = bytes(PAGE)

    def tail(self) -> None:
        self.over = True


def content(number: int) -> bytes:
    return np.random.default_rng(number).bytes(PAGE)


def whole_stream() -> bytes:
    ram = [streams.page(0, content(0), "pc.ram")] + [
        streams.page(n, content(n)) for n in range(1, 40)
    ]
    ram += [streams.zero(n) for n in range(40, 60)]
    video = [streams.zero(0, "vga.vram")] + [streams.page(n, content(n)) for n in range(1, 8)]
    back = [
        streams.page(63, content(63), "pc.ram"),
        streams.zero(60),
        streams.page(61, content(61)),
        streams.zero(62),
    ]
    return (
        streams.header(BLOCKS)
        + streams.part(*ram)
        + streams.part(*video)
        + streams.part(*back)
        + streams.TAIL
    )


def feed(raw: bytes, piece: int) -> Collector:
    found = Collector()
    parser, waiting = StreamParser(found), b""
    for start in range(0, len(raw), piece):
        waiting += raw[start : start + piece]
        waiting = waiting[parser.feed(memoryview(waiting)) :]
    return found


@pytest.mark.parametrize("piece", [1 << 20, 4104 * 3 + 1, 4096, 1000])
def test_every_page_arrives_at_its_place_whatever_the_pieces(piece: int) -> None:
    found = feed(whole_stream(), piece)
    expected = b"".join(content(n) if n < 40 or n in (61, 63) else bytes(PAGE) for n in range(64))
    assert found.found == tuple(BLOCKS.items())
    assert bytes(found.memory["pc.ram"]) == expected
    assert bytes(found.memory["vga.vram"]) == bytes(PAGE) + b"".join(
        content(n) for n in range(1, 8)
    )
    assert found.over


def test_a_run_of_equal_records_is_one_call() -> None:
    assert feed(whole_stream(), 1 << 20).calls == 9


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"QEVX" + bytes(4), "magic"),
        (struct.pack(">IIBI", 0x5145564D, 3, 7, 1 << 30), "a name of"),
        (streams.header(BLOCKS)[:-5] + b"\x7e\0\0\0\x09", "does not end"),
        (streams.header({"pc.ram": PAGE + 1}), "no block list"),
        (streams.header({"pc.ram": PAGE + 1, "b": PAGE - 1}), "block 'pc.ram'"),
        (streams.header(BLOCKS) + streams.part(streams.page(64, bytes(PAGE), "pc.ram")), "beyond"),
        (
            streams.header(BLOCKS) + streams.part(streams.page(0, bytes(PAGE), "nvram")),
            "unknown block",
        ),
        (streams.header(BLOCKS) + streams.part(streams.page(0, bytes(PAGE))), "before any block"),
        (streams.header(BLOCKS) + streams.part(streams.zero(0, "pc.ram")[:-1] + b"x"), "not zero"),
        (streams.header(BLOCKS) + streams.part(struct.pack(">Q", 0x40)), "flags"),
        (streams.header(BLOCKS) + struct.pack(">BI", 2, 99), "not started"),
        (streams.header(BLOCKS) + b"\x63", "section type"),
    ],
)
def test_what_is_malformed_is_named(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedState, match=reason):
        feed(raw, 1 << 20)
