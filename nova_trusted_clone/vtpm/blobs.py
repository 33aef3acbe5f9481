"""What may be told of swtpm's state blobs without being swtpm: header, sizes, and one field of the
volatile state.

Header of each blob, big-endian (swtpm, ``struct blobheader``): version u8, least version u8, header
size u16, flags u16, total size u32. Where the blobs lie in a device-state stream is the
hypervisor's knowledge.
"""

from __future__ import annotations

import struct

from nova_trusted_clone import ports
from nova_trusted_clone.vtpm.base import MAX_BLOB, VtpmStateError

_HEADER = struct.Struct(">BBHHI")
_VERSION = 2
_STORED_ENCRYPTED = 0x01
"""By the key of swtpm's files, which state on its way never is alone (``--key``)."""

_ENCRYPTED = 0x02
"""By the key of state on its way (``--migration-key``)."""

_CLEAR_STATE_MAGIC = struct.pack(">I", 0x98897667)
"""Starts libtpms' STATE_CLEAR_DATA in the volatile state."""

_CLEAR_STATE_HEAD = struct.Struct(">BBBHH")
"""shEnable, ehEnable, phEnableNV, platformAlg, size of platformPolicy; after its bytes: size u16
and bytes of platformAuth."""

_MAX_AUTH = 64


def require_blob(kind: str, blob: bytes, *, encrypted: bool = False) -> None:
    """Raise ``VtpmStateError`` unless ``blob`` is a whole swtpm state blob.

    :param kind: ``permanent``, ``volatile`` or ``savestate``, for the message
    :param encrypted: whether it must be, or must not be
    """
    if not _HEADER.size < len(blob) <= MAX_BLOB:
        raise VtpmStateError(f"{kind} state: {len(blob)} bytes, expected up to {MAX_BLOB}")
    version, _least, header_size, flags, total = _HEADER.unpack_from(blob)
    if version != _VERSION:  # another layout is not guessed at
        raise VtpmStateError(f"{kind} state: format {version}, expected {_VERSION}")
    if header_size != _HEADER.size or total != len(blob):
        raise VtpmStateError(
            f"{kind} state: header says {header_size} + {total} bytes, found {len(blob)}"
        )
    if flags & _STORED_ENCRYPTED or bool(flags & _ENCRYPTED) != encrypted:
        expected = "by the passphrase on its way" if encrypted else "not encrypted"
        raise VtpmStateError(f"{kind} state: flags 0x{flags:04x}, expected it {expected}")


def require_blobs(blobs: ports.VtpmBlobs, *, encrypted: bool = False) -> None:
    """Raise ``VtpmStateError`` unless these are the blobs of a running vTPM; ``savestate`` may
    be empty.

    :param encrypted: whether all of them must be, or none may be
    """
    require_blob("permanent", blobs.permanent, encrypted=encrypted)
    require_blob("volatile", blobs.volatile, encrypted=encrypted)
    if blobs.savestate:
        require_blob("savestate", blobs.savestate, encrypted=encrypted)


def platform_authorization(volatile: bytes) -> bytes:
    """Return the platform hierarchy's authorization value, which a guest's firmware sets at random
    at every boot.

    A derived vTPM needs it once, to replace the endorsement seed while keeping the PCRs.

    :raises VtpmStateError: when it cannot be found
    """
    start = volatile.find(_CLEAR_STATE_MAGIC)
    # After the magic stands the least version, u16.
    start += len(_CLEAR_STATE_MAGIC) + 2
    if start < len(_CLEAR_STATE_MAGIC) + 2 or start + _CLEAR_STATE_HEAD.size > len(volatile):
        raise VtpmStateError("volatile state: no clear-state section; made by an unknown libtpms?")
    *enabled, _algorithm, policy_size = _CLEAR_STATE_HEAD.unpack_from(volatile, start)
    offset = start + _CLEAR_STATE_HEAD.size + policy_size
    if any(flag > 1 for flag in enabled) or policy_size > _MAX_AUTH or offset + 2 > len(volatile):
        raise VtpmStateError("volatile state: a clear-state section that this version cannot read")
    (size,) = struct.unpack_from(">H", volatile, offset)
    value = volatile[offset + 2 : offset + 2 + size]
    if size > _MAX_AUTH or len(value) != size:
        raise VtpmStateError("volatile state: a clear-state section that this version cannot read")
    return value
