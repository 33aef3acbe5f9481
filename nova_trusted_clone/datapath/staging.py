"""Disks copied before the freeze, while the source still writes to them.

Staged bytes are a hint and nothing more. Before the freeze each pass over a disk tells the exporter the SHA-256 of what is
staged, and gets a segment again only where the source wrote meanwhile: so the staged copy follows the source. After the
freeze those leaves whose digests, computed anew from the staged copy, stand in the signed manifest are taken; the others are
fetched.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import threading

from nova_trusted_clone.core.integrity.leaf import (
    DIGEST_BYTES,
    LEAF_BYTES,
    SEGMENT_BYTES,
    Buffer,
    hash_leaves,
)
from nova_trusted_clone.core.integrity.manifest import Region, RegionTable
from nova_trusted_clone.core.integrity.segment import SegmentManifest, each_bit

NOT_STAGED = bytes(DIGEST_BYTES)


class _Disk:
    """The staged copy of one disk, in an unnamed file."""

    def __init__(self, region: Region, directory: pathlib.Path) -> None:
        self.region = region
        self.file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self.digests = bytearray(region.segments * DIGEST_BYTES)


class Staging:
    """Staged copies by the kind and name of their regions. Threads may use all of it."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._disks: dict[tuple[str, str], _Disk] = {}

    def prepare(self, regions: RegionTable) -> None:
        """Make room for these disks.

        :raises OSError: when there is none
        """
        for region in regions.values():
            with self._lock:
                known = self._disks.get((region.kind, region.name))
                if known is None or known.region.size_bytes != region.size_bytes:
                    disk = _Disk(region, self._directory)
                    self._disks[region.kind, region.name] = disk

    def _disk(self, region: Region) -> _Disk | None:
        with self._lock:
            disk = self._disks.get((region.kind, region.name))
        # A disk that was resized before the freeze has other segments: what was staged is of no use.
        return disk if disk is not None and disk.region.size_bytes == region.size_bytes else None

    def known(self, region: Region, index: int) -> bytes:
        """The SHA-256 of a staged segment; zeros when it is not staged."""
        disk = self._disk(region)
        if disk is None:
            return NOT_STAGED
        return bytes(disk.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])

    def has(self, region: Region, index: int) -> bool:
        """Whether a segment is staged."""
        return self.known(region, index) != NOT_STAGED

    def keep(self, region: Region, index: int, data: Buffer) -> None:
        """Stage a segment.

        :raises OSError: when it cannot be written
        """
        disk = self._disk(region)
        if disk is None or memoryview(data).nbytes != region.segment_bytes(index):
            return
        view, offset = memoryview(data).cast("B"), index * SEGMENT_BYTES
        while view:
            written = os.pwrite(disk.file, view, offset)
            view, offset = view[written:], offset + written
        place = slice(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)
        disk.digests[place] = hashlib.sha256(data).digest()

    def matching(self, region: Region, manifest: SegmentManifest) -> tuple[int, bytes]:
        """Those leaves of a verified manifest that the staged copy has, and their bytes in order.

        The bytes that were hashed are the bytes that are returned.
        """
        disk = self._disk(region)
        if disk is None:
            return 0, b""
        size = region.segment_bytes(manifest.index)
        data = os.pread(disk.file, size, manifest.index * SEGMENT_BYTES)
        if len(data) != size:
            return 0, b""
        found, bits, parts = hash_leaves(data), 0, []
        for place, leaf in enumerate(each_bit(manifest.present_bits)):
            signed = manifest.digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]
            if found[leaf * DIGEST_BYTES : (leaf + 1) * DIGEST_BYTES] == signed:
                bits |= 1 << leaf
                parts.append(data[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES])
        return bits, b"".join(parts)

    def close(self) -> None:
        """Let the copies go."""
        with self._lock:
            for disk in self._disks.values():
                os.close(disk.file)
            self._disks.clear()
