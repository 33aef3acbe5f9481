"""Streams as QEMU writes them, for tests."""

from __future__ import annotations

import struct

from nova_trusted_clone.hypervisor.qemu.stream import CONTINUE, EOS, FULL_PAGE, MEM_SIZE, PAGE, ZERO

SECTION = 3


def name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def header(blocks: dict[str, int], machine: str = "pc-q35-7.2") -> bytes:
    parts = [struct.pack(">IIBI", 0x5145564D, 3, 7, len(machine)), machine.encode()]
    parts += [struct.pack(">BI", 1, SECTION), name("ram"), struct.pack(">II", 0, 4)]
    parts.append(struct.pack(">Q", sum(blocks.values()) | MEM_SIZE))
    parts += [name(block) + struct.pack(">Q", size) for block, size in blocks.items()]
    return b"".join(parts) + end()


def end() -> bytes:
    return struct.pack(">QBI", EOS, 0x7E, SECTION)


def part(*records: bytes) -> bytes:
    return struct.pack(">BI", 2, SECTION) + b"".join(records) + end()


def page(number: int, content: bytes, block: str = "") -> bytes:
    flags = FULL_PAGE | (0 if block else CONTINUE)
    return struct.pack(">Q", number * PAGE | flags) + (name(block) if block else b"") + content


def zero(number: int, block: str = "") -> bytes:
    flags = ZERO | (0 if block else CONTINUE)
    return struct.pack(">Q", number * PAGE | flags) + (name(block) if block else b"") + b"\0"


TAIL = struct.pack(">BI", 4, 9) + name("cpu") + struct.pack(">II", 0, 1) + b"device state" + b"\0"
