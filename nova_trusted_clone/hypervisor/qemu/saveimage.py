"""libvirt's save image: a header of 92 bytes, the definition, QEMU's stream (libvirt: ``src/qemu/qemu_saveimage.h``)."""

from __future__ import annotations

import struct

MAGIC = b"LibvirtQemudSave"
VERSION = 2
# Magic, then version, length of the definition, running, compression, offset of the cookie, and 14 unused words.
_HEADER = struct.Struct("<16s5I56x")
_UNCOMPRESSED = 0
_RUNNING = 1


def header(definition: str) -> bytes:
    """Everything that stands before the stream."""
    text = definition.encode() + b"\0"
    return _HEADER.pack(MAGIC, VERSION, len(text), _RUNNING, _UNCOMPRESSED, 0) + text
