"""A block's address is accepted only where there is no other possibility."""

from __future__ import annotations

from nova_trusted_clone.hypervisor.qemu.process import Mapping, parse_smaps
from nova_trusted_clone.hypervisor.qemu.ramblocks import (
    RamBlock,
    parse_flat_view,
    parse_ramblocks,
    resolve,
)

RAMBLOCK = """              Block Name    PSize              Offset               Used              Total
                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000
    /rom@etc/acpi/tables    4 KiB  0x0000000011180000 0x0000000000020000 0x0000000000200000
"""
RAMBLOCK_NEW = """       Block Name    PSize              Offset               Used              Total                HVA  RO
           pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f4febe00000  rw
"""
FLAT = """FlatView #0
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000c0000-00000000000cafff (prio 0, rom): pc.ram @00000000000c0000
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios KVM
"""
SMAPS = """7f4fea200000-7f4fea201000 rw-p 00000000 00:00 0
Size:                  4 kB
VmFlags: rd wr mr mw me uw dc ac dd hg mg
7f4fea400000-7f4fea410000 rw-p 00001000 fd:00 131                        /usr/lib/a file
VmFlags: rd wr
"""
FLAGS = frozenset(("rd", "wr", "dc"))


def place(start: int, size: int) -> Mapping:
    return Mapping(start, size, "rw-p", "00:00", 0, "", FLAGS)


def nothing(_start: int, _size: int) -> bytes:
    return b""


def test_the_monitors_answers_are_read() -> None:
    assert parse_ramblocks(RAMBLOCK) == (
        RamBlock("pc.ram", 0x10000000, 0x10000000),
        RamBlock("/rom@etc/acpi/tables", 0x20000, 0x200000),
    )
    assert parse_ramblocks(RAMBLOCK_NEW)[0].address == 0x7F4FEBE00000
    assert parse_flat_view(FLAT) == {"pc.ram": 0, "pc.bios": 0xFFFC0000}


def test_mappings_are_read_with_their_flags() -> None:
    first, second = parse_smaps(SMAPS)
    assert (first.start, first.size, first.path) == (0x7F4FEA200000, 0x1000, "")
    assert "uw" in first.flags
    assert (second.path, second.inode) == ("/usr/lib/a file", 131)


def test_the_only_mapping_of_a_size_is_the_block() -> None:
    (block,) = resolve([RamBlock("vga.vram", 64, 64)], {}, [place(0x1000, 64)], nothing)
    assert block.address == 0x1000


def test_two_of_a_size_stay_open_unless_one_is_known() -> None:
    blocks = [RamBlock("pc.bios", 64, 64), RamBlock("x.rom", 64, 64)]
    places = [place(0x1000, 64), place(0x2000, 64)]
    assert [b.address for b in resolve(blocks, {}, places, nothing)] == [None, None]
    known = resolve(blocks, {"pc.bios": 0x2000}, places, nothing)
    assert [b.address for b in known] == [0x2000, 0x1000]


def test_a_read_only_block_is_known_by_what_it_must_begin_with() -> None:
    blocks = [RamBlock("vga.rom", 64, 64), RamBlock("/rom@etc/table-loader", 32, 64)]
    contents = {0x1000: b"loader", 0x2000: b"\x55\xaa rom"}
    found = resolve(blocks, {}, [place(0x1000, 64), place(0x2000, 64)], lambda s, _: contents[s])
    assert [b.address for b in found] == [0x2000, 0x1000]


def test_equal_roms_may_be_either_and_different_ones_are_neither() -> None:
    blocks = [RamBlock("a/x.rom", 64, 64), RamBlock("b/x.rom", 64, 64)]
    places = [place(0x1000, 64), place(0x2000, 64)]
    same = resolve(blocks, {}, places, lambda _s, _n: b"\x55\xaa same")
    assert {b.address for b in same} == {0x1000, 0x2000}
    differ = resolve(blocks, {}, places, lambda s, _n: b"\x55\xaa" + bytes([s >> 12]))
    assert [b.address for b in differ] == [None, None]


def test_more_mappings_than_blocks_stay_open() -> None:
    (block,) = resolve([RamBlock("a", 64, 64)], {}, [place(0x1000, 64), place(0x2000, 64)], nothing)
    assert block.address is None
