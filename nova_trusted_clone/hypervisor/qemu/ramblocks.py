"""QEMU's RAM blocks: their names and sizes, and where each lies in QEMU's address space.

QEMU 8.0 and later print the host address beside each block. Before that an address is accepted only if it is the one
place where the block can be: found through the guest's own address map, by a size that only one block has, by what a
read-only block must contain, or because every candidate holds the same bytes. A server with a block whose place stays open is
not frozen.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from nova_trusted_clone.hypervisor.base import HypervisorError, MonitorError
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor
from nova_trusted_clone.hypervisor.qemu.process import Mapping as VmMapping
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, opened

_BLOCK = re.compile(
    r"\s*(\S+)\s+\d+ [KMG]iB\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)(?:\s+0x([0-9a-f]+))?(?:\s+(ro|rw))?\s*"
)
_FLAT = re.compile(r"\s*([0-9a-f]{16})-[0-9a-f]{16} \(prio -?\d+, \w+\): (\S+)(?: @([0-9a-f]+))?.*")
_HVA = re.compile(r"Host virtual address for 0x[0-9a-f]+ \((\S+)\) is 0x([0-9a-f]+)")
# QEMU asks for exactly these on every RAM block: not copied on fork, not dumped (unless wished), mergeable or not.
_BLOCK_FLAGS = frozenset(("rd", "wr", "dc"))
# What the first bytes of a read-only block must be, where its name tells: an option ROM's magic, the ACPI root pointer.
_SIGNATURES: tuple[tuple[Callable[[str], bool], bytes], ...] = (
    (lambda name: name.endswith("/acpi/rsdp"), b"RSD PTR "),
    (lambda name: name.endswith(".rom") and not name.startswith("/rom@"), b"\x55\xaa"),
)


@dataclasses.dataclass(frozen=True)
class RamBlock:
    """A RAM block that migrates.

    :ivar size_bytes: what of it is in use, which is what migrates
    :ivar maximum_bytes: what is mapped
    :ivar address: in QEMU's address space, where it is known
    """

    name: str
    size_bytes: int
    maximum_bytes: int
    address: int | None = None


def parse_ramblocks(text: str) -> tuple[RamBlock, ...]:
    """The blocks of ``info ramblock``, in QEMU's own order, which is the stream's."""
    found = []
    for line in text.splitlines():
        if match := _BLOCK.fullmatch(line):
            address = int(match[4], 16) if match[4] else None
            found.append(RamBlock(match[1], int(match[2], 16), int(match[3], 16), address))
    return tuple(found)


def parse_flat_view(text: str) -> dict[str, int]:
    """Guest physical address of the first byte of each region in ``info mtree -f`` that shows its beginning."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        match = _FLAT.fullmatch(line)
        if match and not int(match[3] or "0", 16):
            found.setdefault(match[2], int(match[1], 16))
    return found


def locate(monitor: Monitor, pid: int, maps: Iterable[VmMapping]) -> tuple[RamBlock, ...]:
    """Every block, with its address where that is certain.

    :raises MonitorError: the monitor does not answer
    """
    blocks = parse_ramblocks(monitor.human("info ramblock"))
    if not blocks:
        raise MonitorError("info ramblock: names no block")
    if all(block.address for block in blocks):
        return blocks
    flat = parse_flat_view(monitor.human("info mtree -f"))
    # A TPM's physical presence block lies in the heap.
    candidates = [m for m in maps if m.flags >= _BLOCK_FLAGS and m.path in ("", "[heap]")]
    by_map = {
        block.name: address
        for block in blocks
        if (address := _through_guest_map(monitor, block, blocks, flat)) is not None
    }
    return resolve(blocks, by_map, candidates, lambda start, size: _read(pid, start, size))


def _through_guest_map(
    monitor: Monitor, block: RamBlock, blocks: Sequence[RamBlock], flat: Mapping[str, int]
) -> int | None:
    region = block.name.rpartition("/")[2]
    if region not in flat or sum(b.name.rpartition("/")[2] == region for b in blocks) != 1:
        return None
    match = _HVA.search(monitor.human(f"gpa2hva {flat[region]:#x}"))
    return int(match[2], 16) if match and match[1] == region else None


def resolve(
    blocks: Sequence[RamBlock],
    by_map: Mapping[str, int],
    candidates: Sequence[VmMapping],
    read: Callable[[int, int], bytes | None],
) -> tuple[RamBlock, ...]:
    """Give each block its place among ``candidates`` where only one is possible.

    :param by_map: addresses as the guest's map tells, which are certain when something is mapped there
    """
    places: dict[str, int] = {}
    free = {m.start: m for m in candidates}
    for block in blocks:
        hint = by_map.get(block.name)
        if hint is None:
            continue
        for start, mapping in list(free.items()):
            if start <= hint and hint + block.maximum_bytes <= start + mapping.size:
                places[block.name] = hint
                del free[start]
    for size in {block.maximum_bytes for block in blocks}:
        open_blocks = [b for b in blocks if b.maximum_bytes == size and b.name not in places]
        starts = [start for start, mapping in free.items() if mapping.size == size]
        places.update(_assign(open_blocks, starts, lambda start, size=size: read(start, size)))  # type: ignore[misc]
    return tuple(dataclasses.replace(b, address=places.get(b.name)) for b in blocks)


def _assign(
    blocks: list[RamBlock], starts: list[int], read: Callable[[int], bytes | None]
) -> dict[str, int]:
    """Blocks of one size among mappings of that size."""
    places: dict[str, int] = {}
    if len(blocks) != len(starts):
        return places
    contents = {start: read(start) for start in starts} if len(blocks) > 1 else {}
    for is_it, magic in _SIGNATURES:
        named = [b for b in blocks if is_it(b.name)]
        marked = [s for s in starts if (contents.get(s) or b"").startswith(magic)]
        same = len({contents[s] for s in marked}) == 1
        if named and len(named) == len(marked) and same:
            places.update({b.name: s for b, s in zip(named, marked, strict=True)})
            blocks = [b for b in blocks if b not in named]
            starts = [s for s in starts if s not in marked]
    if len(blocks) == 1:
        places[blocks[0].name] = starts[0]
    return places


def _read(pid: int, start: int, size: int) -> bytes | None:
    """Bytes of a process; None when they cannot be read."""
    try:
        with opened(ProcessId.of(pid), "mem") as memory:
            return os.pread(memory, size, start)
    except (OSError, HypervisorError):
        return None
