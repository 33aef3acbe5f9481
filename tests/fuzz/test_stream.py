"""Whatever a source's QEMU sends: the stream's reader ends with a typed error or has read it."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import devicestate
from nova_trusted_clone.hypervisor.qemu.stream import StreamParser
from tests.unit.hypervisor import test_stream as unit

WHOLE = unit.whole_stream()[:60_000]


def read(raw: bytes, piece: int) -> None:
    parser, waiting = StreamParser(unit.Collector()), b""
    with contextlib.suppress(MalformedState):
        for start in range(0, len(raw), piece):
            waiting += raw[start : start + piece]
            used = parser.feed(memoryview(waiting))
            assert 0 <= used <= len(waiting)
            waiting = waiting[used:]


@given(st.binary(max_size=600), st.integers(1, 300))
def test_random_bytes(raw: bytes, piece: int) -> None:
    read(raw, piece)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6
    ),
    st.sampled_from([4000, 9000, 70_000]),
)
def test_flipped_bytes(flips: list[tuple[int, int]], piece: int) -> None:
    raw = bytearray(WHOLE)
    for position, value in flips:
        raw[position] = value
    read(bytes(raw), piece)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 255))
def test_flipped_bytes_of_the_header(position: int, value: int) -> None:
    raw = bytearray(WHOLE)
    raw[position] = value
    read(bytes(raw), 70_000)


@given(st.binary(max_size=200), st.integers(0, 1 << 32))
def test_device_states(raw: bytes, size: int) -> None:
    section = b"\x04\0\0\0\x07\x0ctpm-emulator" + bytes(8)
    state = devicestate.HEADER + section + size.to_bytes(8, "big") + raw + b"\0"
    with contextlib.suppress(MalformedState):
        stripped, blobs = devicestate.take_vtpm(state)
        assert blobs is not None
        assert devicestate.take_vtpm(stripped)[0] == stripped
