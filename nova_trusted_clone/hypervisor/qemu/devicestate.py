"""The device state that ``xen-save-devices-state`` gives, and the vTPM's state within it.

QEMU's stream format, big-endian: magic, version 3, sections, end mark. A vTPM's section is ``04 | section id u32 | 0c
"tpm-emulator" | instance u32 | version u32``, then three times ``flags u32, size u32, bytes`` (permanent, volatile,
savestate), then ``7e | section id u32``.
"""

from __future__ import annotations

import re
import struct

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.ports import VtpmBlobs

MAGIC = 0x5145564D
VERSION = 3
HEADER = struct.pack(">II", MAGIC, VERSION)
SECTION_EOF = 0
# A device state is some hundreds of KiB; many processors and queues make it a few MiB.
MAX_DEVICE_STATE_BYTES = 256 << 20
# libtpms' blobs are below 64 KiB each.
MAX_BLOB_BYTES = 1 << 20
_SECTION = re.compile(rb"\x04(....)\x0ctpm-emulator(........)", re.DOTALL)
_BLOB = struct.Struct(">II")


def require(state: bytes) -> None:
    """Check the frame of a device state.

    :raises MalformedState: it is none
    """
    if len(state) > MAX_DEVICE_STATE_BYTES:
        raise MalformedState(f"device state: {len(state)} bytes, more than allowed")
    if not state.startswith(HEADER):
        raise MalformedState("device state: no QEMU stream of version 3")
    if len(state) <= len(HEADER) or state[-1] != SECTION_EOF:
        raise MalformedState("device state: it was cut: no end mark")


def take_vtpm(state: bytes) -> tuple[bytes, VtpmBlobs | None]:
    """The state with the vTPM's blobs taken out, and the blobs; None when there is no vTPM.

    :raises MalformedState: more than one vTPM, or a section that is not as it must be
    """
    require(state)
    found = _find(state)
    if found is None:
        return state, None
    start, end, blobs = found
    return state[:start] + _BLOB.pack(0, 0) * 3 + state[end:], VtpmBlobs(*blobs)


def give_vtpm(state: bytes, blobs: VtpmBlobs | None) -> bytes:
    """The state with a vTPM's blobs in the place that ``take_vtpm`` left.

    :raises MalformedState: the state and the blobs do not go together
    """
    require(state)
    found = _find(state)
    if (found is None) != (blobs is None):
        has = "no" if found is None else "a"
        raise MalformedState(f"device state: it has {has} vTPM, which is not what was planned")
    if found is None or blobs is None:
        return state
    start, end, old = found
    if any(old):
        raise MalformedState("device state: the vTPM's place holds a state already")
    filling = b"".join(
        _BLOB.pack(0, len(blob)) + blob
        for blob in (blobs.permanent, blobs.volatile, blobs.savestate)
    )
    return state[:start] + filling + state[end:]


def _find(state: bytes) -> tuple[int, int, list[bytes]] | None:
    """(start, end, blobs) of the three blobs."""
    sections = list(_SECTION.finditer(state))
    if not sections:
        return None
    if len(sections) > 1:
        raise MalformedState(f"device state: {len(sections)} vTPMs, expected one")
    section = sections[0]
    position, blobs = section.end(), []
    for name in ("permanent", "volatile", "savestate"):
        if position + _BLOB.size > len(state):
            raise MalformedState(f"device state: vTPM: cut within {name}")
        _flags, size = _BLOB.unpack_from(state, position)
        position += _BLOB.size
        if size > MAX_BLOB_BYTES or position + size > len(state):
            raise MalformedState(f"device state: vTPM: {name}: {size} bytes")
        blobs.append(state[position : position + size])
        position += size
    if state[position : position + 5] != b"\x7e" + section[1]:
        raise MalformedState("device state: vTPM: the section does not end where its blobs do")
    return section.end(), position, blobs
