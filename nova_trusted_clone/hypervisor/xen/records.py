"""What stands in a saved domain's stream, and how much of it may.

::

    libxl   ident version options, then records: LIBXC_CONTEXT, the emulator's, END
    libxc     within LIBXC_CONTEXT: image header, domain header, then records: static data, pages, the processors', END

libxl's headers and libxc's image header are big-endian, everything else is little-endian; a record's body is padded with zeros
to 8 bytes (Xen 4.17: ``docs/specs/libxl-migration-stream.pandoc``, ``docs/specs/libxc-migration-stream.pandoc``).
"""

from __future__ import annotations

import enum
import struct

PAGE = 4096
PAGE_SHIFT = 12

LIBXL_IDENT = 0x4C6962786C466D74  # "LibxlFmt"
LIBXL_VERSION = 2
LIBXL_HEADER = struct.Struct(">QII")
LIBXC_MARKER = 0xFFFFFFFFFFFFFFFF
LIBXC_ID = 0x58454E46  # "XENF"
LIBXC_VERSION = 3
# Marker, id, version, options, and 6 bytes that are zero.
IMAGE_HEADER = struct.Struct(">QIIH6s")
# Type, page shift, 2 bytes that are zero, Xen's version.
DOMAIN_HEADER = struct.Struct("<IHHII")
RECORD = struct.Struct("<II")
PAGE_COUNT = struct.Struct("<II")

# libxc sends at most so many pages in one record (MAX_BATCH_SIZE).
MAX_BATCH = 1024
MAX_PAGE_RECORD_BYTES = PAGE_COUNT.size + MAX_BATCH * (8 + PAGE)
# The largest other ones are P2M_FRAMES (8 bytes for each 2 MiB) and HVM_CONTEXT (some 10 KiB a processor).
MAX_RECORD_BYTES = 8 << 20
MAX_RECORDS = 8192
MAX_STATE_BYTES = 64 << 20
# 48 bits of physical address.
MAX_PAGE_NUMBER = (1 << 36) - 1


class Guest(enum.IntEnum):
    """How a domain is virtualized, as libxc sees it: a PVH one is an HVM one without a device model."""

    PV = 1
    HVM = 2


class Libxl(enum.IntEnum):
    """libxl's records."""

    END = 0
    LIBXC_CONTEXT = 1
    EMULATOR_XENSTORE_DATA = 2
    EMULATOR_CONTEXT = 3
    CHECKPOINT_END = 4
    CHECKPOINT_STATE = 5


class Libxc(enum.IntEnum):
    """libxc's records."""

    END = 0x00
    PAGE_DATA = 0x01
    X86_PV_INFO = 0x02
    X86_PV_P2M_FRAMES = 0x03
    X86_PV_VCPU_BASIC = 0x04
    X86_PV_VCPU_EXTENDED = 0x05
    X86_PV_VCPU_XSAVE = 0x06
    SHARED_INFO = 0x07
    X86_TSC_INFO = 0x08
    HVM_CONTEXT = 0x09
    HVM_PARAMS = 0x0A
    TOOLSTACK = 0x0B
    X86_PV_VCPU_MSRS = 0x0C
    VERIFY = 0x0D
    CHECKPOINT = 0x0E
    CHECKPOINT_DIRTY_PFN_LIST = 0x0F
    STATIC_DATA_END = 0x10
    X86_CPUID_POLICY = 0x11
    X86_MSR_POLICY = 0x12


_STATIC = frozenset((Libxc.X86_CPUID_POLICY, Libxc.X86_MSR_POLICY, Libxc.STATIC_DATA_END))
# Before the first page.
HEAD = {
    Guest.PV: _STATIC | {Libxc.X86_PV_INFO, Libxc.X86_PV_P2M_FRAMES},
    Guest.HVM: _STATIC,
}
# After the last page.
TAIL = {
    Guest.PV: frozenset(
        (
            Libxc.X86_TSC_INFO,
            Libxc.SHARED_INFO,
            Libxc.X86_PV_VCPU_BASIC,
            Libxc.X86_PV_VCPU_EXTENDED,
            Libxc.X86_PV_VCPU_XSAVE,
            Libxc.X86_PV_VCPU_MSRS,
        )
    ),
    Guest.HVM: frozenset((Libxc.X86_TSC_INFO, Libxc.HVM_CONTEXT, Libxc.HVM_PARAMS)),
}
EMULATOR = frozenset((Libxl.EMULATOR_XENSTORE_DATA, Libxl.EMULATOR_CONTEXT))

# A page's number is in the low 52 bits of its entry, its type in the high 4.
NUMBER_BITS = 52
TYPE_SHIFT = 60
ORDINARY = 0
# Page tables of four levels, and pinned ones; a PV domain alone has them.
TABLES = frozenset((1, 2, 3, 4, 9, 10, 11, 12))
# Broken, to be allocated, not there: these bring no bytes.
BROKEN, ALLOCATE, ABSENT = 0xD, 0xE, 0xF
TYPES = frozenset((ORDINARY, *TABLES, BROKEN, ALLOCATE, ABSENT))


def padding(length: int) -> int:
    """Zero bytes after a body of ``length``."""
    return -length % 8
