"""A region as the store keeps it: a sparse file, and which of its leaves are verified.

Bytes enter only through :meth:`RegionCache.enter`, with a manifest that was verified and leaves that were checked against it.
Both the bitmap and the manifests' digests are mapped files, so that they outlive a killed process at no cost; after a crash
of the whole machine they are not believed (the boot id in ``store.py`` tells).

Not safe against threads by itself: the store's lock guards the bitmap; bytes are written outside
it, before their bits are set.
"""

from __future__ import annotations

import mmap
import os
import pathlib
import struct

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.integrity.bitmap import Bitmap, bitmap_bytes
from nova_trusted_clone.core.integrity.leaf import (
    DIGEST_BYTES,
    LEAF_BYTES,
    LEAVES_PER_SEGMENT,
    SEGMENT_BYTES,
    Buffer,
)
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.core.integrity.segment import SegmentManifest, each_run

# For each segment: the digest of its manifest, and how many of its leaves are zero.
_RECORD = struct.Struct(">32sI")


class SegmentChanged(CoreError):
    """The source signed two different manifests for one segment."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="trusted-clone.segment.changed")


def _mapped_file(path: pathlib.Path, size: int) -> mmap.mmap:
    """A file of ``size`` bytes, mapped; its blocks are there, so that a full disk shows here and not as SIGBUS."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


class RegionCache:
    """The verified part of one region.

    :raises OSError: when there is no room for it
    """

    def __init__(self, region: Region, directory: pathlib.Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.region = region
        self.path = directory / "data"
        self._data = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._data, region.size_bytes)
        self._bits_file = _mapped_file(directory / "leaves", bitmap_bytes(region.leaves))
        self._records = _mapped_file(directory / "manifests", region.segments * _RECORD.size)
        self.leaves = Bitmap(region.leaves, self._bits_file)

    def _leaf_range(self, index: int) -> tuple[int, int]:
        start = index * LEAVES_PER_SEGMENT
        return start, start + self.region.segment_leaves(index)

    def missing(self, index: int) -> int:
        """The leaves of a segment that are not verified yet, bit n for leaf n."""
        start, stop = self._leaf_range(index)
        return self.leaves.bits(start, stop) ^ ((1 << (stop - start)) - 1)

    def has(self, offset: int, size: int) -> bool:
        """Whether every leaf of a range of bytes is verified."""
        stop = min(offset + size, self.region.size_bytes)
        return stop <= offset or self.leaves.all_set(offset // LEAF_BYTES, -(-stop // LEAF_BYTES))

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file; the caller has asked ``has``."""
        return os.pread(self._data, size, offset)

    def read_now(self, offset: int, size: int) -> bytes | None:
        """The same bytes if they are in memory; None when the disk has to be waited for."""
        buffer = bytearray(min(size, max(0, self.region.size_bytes - offset)))
        try:
            count = os.preadv(self._data, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        return bytes(buffer) if count == len(buffer) else None

    def write(self, manifest: SegmentManifest, wanted_bits: int, data: Buffer) -> None:
        """Write checked leaves; they are not there for readers before ``enter``.

        Zero leaves are holes: nothing else was ever written in their place.

        :raises OSError: a full disk
        """
        view, base = memoryview(data).cast("B"), manifest.index * SEGMENT_BYTES
        for start, stop in each_run(manifest.present_bits & wanted_bits):
            part = view[: (stop - start) * LEAF_BYTES]
            offset = base + start * LEAF_BYTES
            while part:
                written = os.pwrite(self._data, part, offset)
                part, offset = part[written:], offset + written
            view = view[(stop - start) * LEAF_BYTES :]

    def note_manifest(self, manifest: SegmentManifest, digest: bytes) -> None:
        """Remember a verified manifest.

        :raises SegmentChanged: when another one was verified for this segment before
        """
        at = manifest.index * _RECORD.size
        known, _ = _RECORD.unpack_from(self._records, at)
        if known == bytes(DIGEST_BYTES):
            _RECORD.pack_into(self._records, at, digest, manifest.zero_count)
        elif known != digest:
            where = f"region {self.region.id} segment {manifest.index}"
            raise SegmentChanged(f"{where}: the source signed two different manifests")

    def enter(self, manifest: SegmentManifest, wanted_bits: int) -> int:
        """Mark the wanted leaves, and all zero leaves, as verified; return how many are so newly."""
        start, stop = self._leaf_range(manifest.index)
        before = self.leaves.count
        all_bits = (1 << (stop - start)) - 1
        self.leaves.set_from(start, (wanted_bits | manifest.zero_bits) & all_bits)
        return self.leaves.count - before

    def digests(self) -> list[bytes]:
        """The digest of each segment's manifest in order; zeros where there is none yet."""
        return [record[0] for record in _RECORD.iter_unpack(self._records)]

    def zero_leaves(self) -> int:
        """How many leaves are zero, by the manifests so far."""
        return sum(record[1] for record in _RECORD.iter_unpack(self._records))

    def close(self) -> None:
        """Let the files go."""
        self.leaves.release()
        self._bits_file.close()
        self._records.close()
        os.close(self._data)
