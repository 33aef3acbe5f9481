"""The headers that stand before libxl's stream: of ``xl save``, and of libvirt (``src/libxl/libxl_conf.h``)."""

from __future__ import annotations

import struct

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.xen.stream import Readable

LIBVIRT_MAGIC = b"libvirt-xml\n \0 \r"
LIBVIRT_VERSION = 2
# Magic, version, length of the definition, 10 unused words.
_LIBVIRT = struct.Struct("<16s2I40x")

XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
_XL = struct.Struct("<4I")
_BYTE_ORDER = 0x01020304
# The definition is JSON, the stream libxl's version 2 (tools/xl/xl.h); anything else is of Xens long gone.
_XL_FLAGS = 0x3
MAX_DEFINITION_BYTES = 1 << 20


def libvirt_header(definition: str) -> bytes:
    """Everything that libvirt wants before the stream."""
    text = definition.encode() + b"\0"
    return _LIBVIRT.pack(LIBVIRT_MAGIC, LIBVIRT_VERSION, len(text)) + text


def skip_xl_header(file: Readable) -> bytes:
    """Read the header of ``xl save`` up to libxl's stream and return the definition in it.

    :raises MalformedState: it is another one
    """
    if _read(file, len(XL_MAGIC)) != XL_MAGIC:
        raise MalformedState("not a domain saved by xl")
    order, mandatory, _optional, length = _XL.unpack(_read(file, _XL.size))
    if order != _BYTE_ORDER or mandatory != _XL_FLAGS:
        raise MalformedState(f"xl's header: byte order {order:#x}, mandatory flags {mandatory:#x}")
    if length > MAX_DEFINITION_BYTES:
        raise MalformedState(f"xl's header: a definition of {length} bytes")
    return _read(file, length)


def _read(file: Readable, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = file.read(count - len(found))
        if not part:
            raise MalformedState("xl's header: the file ends within it")
        found += part
    return found
