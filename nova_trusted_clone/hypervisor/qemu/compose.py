"""An incoming stream for a clone: block list, the pages of small blocks, the device state.

The large blocks bring no page: QEMU maps them from the store's files, which are the frozen memory already. Pages of small
blocks are all given, zero ones too, because QEMU fills ROM blocks by itself before it reads the stream.
"""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import devicestate

PAGE = 4096
# QEMU's migration stream, version 3; all integers are big-endian (QEMU: docs/devel/migration.rst, migration/ram.c). A page's
# record is its address with flags, the block's name unless CONTINUE is set, then the page, or one fill byte for a zero page.
ZERO, MEM_SIZE, FULL_PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
SECTION_START, SECTION_END = 1, 3
DESCRIPTION, CONFIGURATION, FOOTER = 6, 7, 0x7E
RAM = "ram"
RAM_VERSION = 4
# Any number that no device's section has: those count up from 0.
_RAM_SECTION = 0x6E7463
_ZERO_PAGE = bytes(PAGE)


def incoming_stream(
    machine: str,
    blocks: Sequence[tuple[str, int]],
    small_blocks: Mapping[str, pathlib.Path],
    device_state: bytes,
) -> Iterator[bytes]:
    """The stream, in parts.

    :param blocks: every block in the source's order
    :param device_state: with the clone's vTPM in it already
    :raises MalformedState: a small block's file has not the block's size, or the device state is none
    """
    devicestate.require(device_state)
    name = machine.encode("ascii")
    yield devicestate.HEADER + bytes([CONFIGURATION]) + struct.pack(">I", len(name)) + name
    yield bytes([SECTION_START]) + struct.pack(">I", _RAM_SECTION) + _counted(RAM)
    yield struct.pack(">II", 0, RAM_VERSION)
    yield struct.pack(">Q", sum(size for _, size in blocks) | MEM_SIZE)
    for block, size in blocks:
        yield _counted(block) + struct.pack(">Q", size)
    yield _end()
    yield bytes([SECTION_END]) + struct.pack(">I", _RAM_SECTION)
    for block, size in blocks:
        if block in small_blocks:
            content = small_blocks[block].read_bytes()
            if len(content) != size or size % PAGE:
                raise MalformedState(f"block {block}: {len(content)} bytes, expected {size}")
            yield from _records(block, content)
    yield _end()
    yield device_state[len(devicestate.HEADER) :]
    # An empty description of the fields: QEMU asks for one after the end mark and complains when there is none.
    yield struct.pack(">BI", DESCRIPTION, 0)


def _records(block: str, content: bytes) -> Iterable[bytes]:
    name, more = _counted(block), 0
    for address in range(0, len(content), PAGE):
        page = content[address : address + PAGE]
        zero = page == _ZERO_PAGE
        flags = (ZERO if zero else FULL_PAGE) | more
        yield struct.pack(">Q", address | flags) + (b"" if more else name)
        yield b"\0" if zero else page
        more = CONTINUE


def _counted(text: str) -> bytes:
    raw = text.encode("ascii")
    if not 0 < len(raw) < 256:
        raise MalformedState(f"a name of {len(raw)} bytes")
    return bytes([len(raw)]) + raw


def _end() -> bytes:
    return struct.pack(">QBI", EOS, FOOTER, _RAM_SECTION)
