"""SHA-256 of the 4 KiB leaves of a segment, a whole segment in one call.

The C module hashes without the interpreter's lock, several leaves at a time where libipsec-mb can
be loaded. Where it was not built, hashlib gives the same digests. Bitmaps have one bit a leaf,
least significant bit of each byte first.
"""

from __future__ import annotations

import hashlib
import importlib
import types
from collections.abc import Callable, Iterator

try:
    _native: types.ModuleType | None = importlib.import_module(
        "nova_trusted_clone.core.integrity._leafhash"
    )
except ImportError:
    _native = None

# A guest's page and the least common block of disks: what a guest can touch alone is checked alone.
LEAF_BYTES = 4096
# What a huge-page fault of QEMU's RAM asks of FUSE at once; a list of leaves is then 8 KiB.
SEGMENT_BYTES = 1 << 20
LEAVES_PER_SEGMENT = SEGMENT_BYTES // LEAF_BYTES
DIGEST_BYTES = 32

Buffer = bytes | bytearray | memoryview


def leaf_count(length_bytes: int) -> int:
    """How many leaves ``length_bytes`` make; the last may be short."""
    return -(-length_bytes // LEAF_BYTES)


def hash_leaves(data: Buffer) -> bytes:
    """SHA-256 of each leaf (FIPS 180-4), 32 bytes a leaf, concatenated; the last leaf may be
    short."""
    return _hash_leaves(data)


def zero_bitmap(data: Buffer) -> bytes:
    """One bit a leaf, set where every byte is zero; unused bits of the last byte are zero."""
    return _zero_bitmap(data)


def digest_segment(data: Buffer) -> tuple[bytes, bytes]:
    """The zero bitmap, and the digests of the leaves that are not zero."""
    return _digest_segment(data)


def implementation() -> str:
    """What hashes here: ``ipsec-mb``, ``openssl`` or ``hashlib``."""
    return _implementation()


def _leaves(data: Buffer) -> Iterator[memoryview]:
    view = memoryview(data).cast("B")
    for offset in range(0, len(view), LEAF_BYTES):
        yield view[offset : offset + LEAF_BYTES]


def hash_leaves_by_hashlib(data: Buffer) -> bytes:
    """What :func:`hash_leaves` does, without the C module."""
    return b"".join(hashlib.sha256(leaf).digest() for leaf in _leaves(data))


def zero_bitmap_by_hashlib(data: Buffer) -> bytes:
    """What :func:`zero_bitmap` does, without the C module."""
    bitmap = bytearray((leaf_count(memoryview(data).nbytes) + 7) // 8)
    zero = bytes(LEAF_BYTES)
    for index, leaf in enumerate(_leaves(data)):
        if leaf == zero[: len(leaf)]:
            bitmap[index // 8] |= 1 << (index % 8)
    return bytes(bitmap)


def digest_segment_by_hashlib(data: Buffer) -> tuple[bytes, bytes]:
    """What :func:`digest_segment` does, without the C module."""
    bitmap = zero_bitmap_by_hashlib(data)
    digests = (
        hashlib.sha256(leaf).digest()
        for index, leaf in enumerate(_leaves(data))
        if not bitmap[index // 8] >> (index % 8) & 1
    )
    return bitmap, b"".join(digests)


_hash_leaves: Callable[[Buffer], bytes] = hash_leaves_by_hashlib
_zero_bitmap: Callable[[Buffer], bytes] = zero_bitmap_by_hashlib
_digest_segment: Callable[[Buffer], tuple[bytes, bytes]] = digest_segment_by_hashlib
_implementation: Callable[[], str] = lambda: "hashlib"  # noqa: E731
if _native is not None:
    _hash_leaves = _native.hash_leaves
    _zero_bitmap = _native.zero_bitmap
    _digest_segment = _native.digest_segment
    _implementation = _native.implementation
