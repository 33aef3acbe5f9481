"""Saved domains: read strictly, kept, put together again; what is not as it must be is refused with its place."""

from __future__ import annotations

import functools
import io
import pathlib
import struct

import numpy as np
import pytest

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.xen import compose, cpupolicy, saveimage, stream
from nova_trusted_clone.hypervisor.xen.capture import Capture
from nova_trusted_clone.hypervisor.xen.records import PAGE, RECORD, Guest, Libxc, Libxl
from nova_trusted_clone.hypervisor.xen.state import DomainState, Range, Run

MEMORY_PAGES = 700
VECTORS = pathlib.Path(__file__).resolve().parents[2] / "vectors"


@functools.cache
def page(number: int, version: int = 0) -> bytes:
    return struct.pack("<QQ", number, version) * (PAGE // 16)


def pvh() -> DomainState:
    """A PVH domain as Xen lays one out: low memory with a hole, and a few pages below 4 GiB."""
    return DomainState(
        guest=Guest.HVM,
        version=(4, 17),
        ranges=(Range(0, MEMORY_PAGES), Range(0xFEFF8, 8)),
        runs=(Run(0, 160, 0), Run(192, 508, 0), Run(0xFEFF8, 8, 0)),
        head=((Libxc.X86_CPUID_POLICY, b"cpuid" * 5), (Libxc.STATIC_DATA_END, b"")),
        tail=(
            (Libxc.X86_TSC_INFO, bytes(24)),
            (Libxc.HVM_CONTEXT, b"h" * 1001),
            (Libxc.HVM_PARAMS, bytes(40)),
        ),
        emulator=((Libxl.EMULATOR_XENSTORE_DATA, b"\1\0\0\0\0\0\0\0key\0value\0"),),
    )


def pv() -> DomainState:
    """A PV domain: page tables among its pages, and pages without bytes."""
    return DomainState(
        guest=Guest.PV,
        version=(4, 17),
        ranges=(Range(0, MEMORY_PAGES),),
        runs=(
            Run(0, 10, 0),
            Run(10, 1, 4),
            Run(11, 1, 9),
            Run(12, 600, 0),
            Run(612, 3, 15),
            Run(620, 80, 0),
        ),
        head=(
            (Libxc.STATIC_DATA_END, b""),
            (Libxc.X86_PV_INFO, b"\x08\x04" + bytes(6)),
            (Libxc.X86_PV_P2M_FRAMES, bytes(16)),
        ),
        tail=((Libxc.X86_PV_VCPU_BASIC, bytes(100)), (Libxc.SHARED_INFO, bytes(PAGE))),
        emulator=(),
    )


@functools.cache
def raw_stream(state: DomainState) -> bytes:
    return b"".join(
        compose.stream(state, lambda first, count: b"".join(page(first + n) for n in range(count)))
    )


def captured(raw: bytes, directory: pathlib.Path) -> tuple[DomainState, bytes]:
    capture = Capture(directory / "memory")
    stream.read(io.BytesIO(raw), capture)
    state = capture.state(MEMORY_PAGES * PAGE)
    capture.close()
    return state, (directory / "memory").read_bytes()[: MEMORY_PAGES * PAGE]


def test_what_a_real_xen_wrote_is_read(tmp_path):
    """A running PVH guest of Xen 4.17 as ``xl save`` wrote it; of its pages six are left, and they are zeros."""
    raw = (VECTORS / "xen-4.17-pvh.stream").read_bytes()
    state, memory = captured(raw, tmp_path)
    assert (state.guest, state.version) == (Guest.HVM, (4, 17))
    assert [kind for kind, _ in state.head] == [
        Libxc.X86_CPUID_POLICY,
        Libxc.X86_MSR_POLICY,
        Libxc.STATIC_DATA_END,
    ]
    assert [kind for kind, _ in state.tail] == [
        Libxc.X86_TSC_INFO,
        Libxc.HVM_CONTEXT,
        Libxc.HVM_PARAMS,
    ]
    assert [one.name for one in state.ranges] == ["0x0", "0xfc000", "0xfeff8"]
    assert memory == bytes(MEMORY_PAGES * PAGE)
    policy = cpupolicy.of_domain(state)
    assert policy is not None and not cpupolicy.missing(policy, policy)
    again = b"".join(compose.stream(state, lambda _first, count: bytes(count * PAGE)))
    (tmp_path / "again").mkdir()
    assert captured(again, tmp_path / "again")[0] == state


def test_a_page_that_goes_while_the_guest_runs_is_wiped(tmp_path):
    """A balloon took it: its last bytes are not the clone's."""
    body = struct.pack("<II", 3, 0) + struct.pack(
        "<3Q", 0xF << 60 | 8, 0xF << 60 | 9, 0xF << 60 | 650_000
    )
    record = RECORD.pack(Libxc.PAGE_DATA, len(body)) + body
    raw = raw_stream(pvh())
    before_tail = raw.index(RECORD.pack(Libxc.X86_TSC_INFO, 24))
    state, memory = captured(raw[:before_tail] + record + raw[before_tail:], tmp_path)
    assert memory[7 * PAGE : 8 * PAGE] == page(7)
    assert memory[8 * PAGE : 10 * PAGE] == bytes(2 * PAGE)
    assert memory[10 * PAGE : 11 * PAGE] == page(10)
    assert Run(8, 2, 0xF) in state.runs and Run(650_000, 1, 0xF) in state.runs


@pytest.mark.parametrize("make", [pvh, pv])
def test_what_was_read_is_put_together_again_byte_for_byte(make, tmp_path):
    state = make()
    raw = raw_stream(state)
    found, memory = captured(raw, tmp_path)
    assert found == state
    again = b"".join(
        compose.stream(found, lambda first, count: read_pages(tmp_path / "memory", first, count))
    )
    assert again == raw
    assert memory[5 * PAGE : 6 * PAGE] == page(5)


def read_pages(path: pathlib.Path, first: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(first * PAGE)
        return file.read(count * PAGE)


@pytest.mark.parametrize("make", [pvh, pv])
def test_the_state_travels_as_a_region(make):
    state = make()
    assert DomainState.decode(state.encode()) == state


def test_a_page_that_comes_again_counts_as_it_came_last(tmp_path):
    raw = raw_stream(pvh())
    at = raw.index(RECORD.pack(Libxc.X86_TSC_INFO, 24))
    again = struct.pack("<IIQ", 1, 0, 7) + page(7, version=2)
    _, memory = captured(
        raw[:at] + RECORD.pack(Libxc.PAGE_DATA, len(again)) + again + raw[at:], tmp_path
    )
    assert memory[7 * PAGE : 8 * PAGE] == page(7, version=2)
    assert memory[8 * PAGE : 9 * PAGE] == page(8)


def test_a_page_that_was_given_back_is_wiped_and_is_there_no_longer(tmp_path):
    raw = raw_stream(pvh())
    at = raw.index(RECORD.pack(Libxc.X86_TSC_INFO, 24))
    gone = struct.pack("<IIQ", 1, 0, 0xF << 60 | 7)
    state, memory = captured(
        raw[:at] + RECORD.pack(Libxc.PAGE_DATA, len(gone)) + gone + raw[at:], tmp_path
    )
    assert memory[7 * PAGE : 8 * PAGE] == bytes(PAGE)
    assert Run(7, 1, 15) in state.runs


def test_memory_counts_whole_even_where_the_domain_gave_pages_back(tmp_path):
    """An order names the server's memory; regions that are smaller would be refused."""
    state = DomainState(Guest.HVM, (4, 17), (Range(0, 400),), (Run(0, 400, 0),), (), (), ())
    found, _ = captured(raw_stream(state), tmp_path)
    assert sum(one.count for one in found.ranges) == MEMORY_PAGES


# -- what is refused --


def refusal(raw: bytes, tmp_path: pathlib.Path) -> str:
    with pytest.raises(MalformedState) as caught:
        captured(raw, tmp_path)
    return str(caught.value)


@pytest.mark.parametrize("cut", [3, 20, 50, 70, 100, 5000, -1])
def test_a_stream_that_ends_early(cut, tmp_path):
    assert "ends within" in refusal(raw_stream(pvh())[:cut], tmp_path)


def test_bytes_after_the_end(tmp_path):
    assert "after the end" in refusal(raw_stream(pvh()) + b"x", tmp_path)


@pytest.mark.parametrize(
    ("position", "value", "told"),
    [
        (0, 0, "ident"),
        (11, 3, "version 3"),
        (15, 2, "options 0x2"),
        (16, 3, "libxl record 3"),
        (32, 1, "libxc's header"),
        (41, 1, "options 0x1"),
        (48, 3, "type 3"),
        (52, 13, "page shift 13"),
    ],
)
def test_another_header(position, value, told, tmp_path):
    raw = bytearray(raw_stream(pvh()))
    raw[position] = value
    assert told in refusal(bytes(raw), tmp_path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Libxc.VERIFY, "before the pages"),
        (Libxc.CHECKPOINT, "before the pages"),
        (Libxc.X86_PV_INFO, "before the pages"),
        (0x8000_0099, "before the pages"),
        (Libxc.HVM_CONTEXT, "before the pages"),
    ],
)
def test_records_that_do_not_belong_there(kind, told, tmp_path):
    raw = raw_stream(pvh())
    at = raw.index(RECORD.pack(Libxc.X86_CPUID_POLICY, 25))
    assert told in refusal(raw[:at] + RECORD.pack(kind, 0) + raw[at:], tmp_path)


def with_page_record(body: bytes) -> bytes:
    raw = raw_stream(pvh())
    at = raw.index(RECORD.pack(Libxc.X86_TSC_INFO, 24))
    return (
        raw[:at] + RECORD.pack(Libxc.PAGE_DATA, len(body)) + body + bytes(-len(body) % 8) + raw[at:]
    )


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (struct.pack("<II", 1, 0), "a page record of 8 bytes"),
        (struct.pack("<IIQ", 0, 0, 0), "with 0 pages"),
        (struct.pack("<IIQ", 1025, 0, 0), "with 1025 pages"),
        (struct.pack("<IIQ", 1, 1, 1) + bytes(PAGE), "with 1 pages"),
        (struct.pack("<IIQ", 1, 0, 1), "with 1 pages' bytes"),
        (struct.pack("<IIQ", 1, 0, 1 << 36) + bytes(PAGE), "out of range"),
        (struct.pack("<IIQ", 1, 0, 1 << 53) + bytes(PAGE), "out of range"),
        (struct.pack("<IIQ", 1, 0, 4 << 60) + bytes(PAGE), "page types [4] of a HVM"),
        (struct.pack("<IIQ", 1, 0, 5 << 60) + bytes(PAGE), "page types [5]"),
    ],
)
def test_page_records_that_lie(body, told, tmp_path):
    assert told in refusal(with_page_record(body), tmp_path)


def test_a_record_larger_than_any(tmp_path):
    raw = raw_stream(pvh())
    at = raw.index(RECORD.pack(Libxc.HVM_CONTEXT, 1001))
    lie = RECORD.pack(Libxc.HVM_CONTEXT, 0x7FFFFFFF)
    assert "a record of 2147483647 bytes" in refusal(raw[:at] + lie + raw[at + 8 :], tmp_path)


def test_padding_that_is_used(tmp_path):
    raw = bytearray(raw_stream(pvh()))
    raw[raw.index(b"h" * 1001) + 1001] = 1
    assert "padding" in refusal(bytes(raw), tmp_path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"format": "other"}, "format"),
        ({"guest": 3}, "guest"),
        ({"guest": True}, "guest"),
        ({"version": [4]}, "version"),
        ({"ranges": [[0, 700], [600, 8]]}, "out of order"),
        ({"ranges": [[0, 0], [0xFEFF8, 8]]}, "empty"),
        ({"ranges": [[0, 700]]}, "in no range"),
        ({"ranges": [[0, 1 << 36], [0xFEFF8, 8]]}, "ranges"),
        ({"runs": [[0, 160, 4]]}, "type 4"),
        ({"runs": [[0, 160]]}, "3 numbers"),
        ({"head": [[9, b""]]}, "head"),
        ({"tail": [[9, "text"]]}, "tail"),
        ({"emulator": [[4, b""]]}, "emulator"),
        ({"more": 1}, "format"),
    ],
)
def test_states_that_are_none(changed, told):
    import cbor2

    rows = cbor2.loads(pvh().encode()) | changed
    with pytest.raises(MalformedState, match=told):
        DomainState.decode(cbor2.dumps(rows))


def test_the_headers_before_the_stream():
    text = "<domain/>"
    raw = saveimage.libvirt_header(text)
    assert raw[:24] == b"libvirt-xml\n \0 \r" + struct.pack("<II", 2, len(text) + 1)
    assert raw[64:] == b"<domain/>\0"


def test_xl_save_has_a_header_of_its_own():
    raw = saveimage.XL_MAGIC + struct.pack("<4I", 0x01020304, 3, 0, 5) + b"{...}" + b"rest"
    file = io.BytesIO(raw)
    assert saveimage.skip_xl_header(file) == b"{...}"
    assert file.read() == b"rest"


@pytest.mark.parametrize(
    "header",
    [
        (0x04030201, 3, 0, 5),
        (0x01020304, 1, 0, 5),
        (0x01020304, 7, 0, 5),
        (0x01020304, 3, 0, 1 << 30),
    ],
)
def test_xl_headers_that_are_none(header):
    raw = saveimage.XL_MAGIC + struct.pack("<4I", *header) + b"{...}"
    with pytest.raises(MalformedState):
        saveimage.skip_xl_header(io.BytesIO(raw))


def test_pages_far_apart_are_kept_apart(tmp_path):
    capture = Capture(tmp_path / "memory")
    capture.image(Guest.HVM, (4, 17))
    for first in (0, 300, 1000):
        numbers = np.array([first], np.uint64)
        capture.pages(numbers, np.zeros(1, np.uint8), np.full((1, PAGE), 7, np.uint8))
    assert capture.state(0).ranges == (Range(0, 1), Range(300, 1), Range(1000, 1))
    capture.close()
