"""The exporter's book of manifests: each segment hashed and signed once, and the root when all are.

What stays in memory is 44 bytes a segment (one part in 20,000 of the guest); the manifests
themselves lie in an unnamed file. If there is no room for them they are made again when asked for:
Ed25519 and the encoding are deterministic, so the same segment gives the same bytes.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import pathlib
import threading
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.leaf import DIGEST_BYTES, Buffer
from nova_trusted_clone.core.integrity.manifest import Counts, ManifestRoot, Region, RegionTable
from nova_trusted_clone.core.integrity.segment import SegmentManifest, SignedManifest
from nova_trusted_clone.datapath.errors import SourceGone

LOG = logging.getLogger(__name__)
Seal = Callable[[Region, int, Buffer], SignedManifest]


def sealer(freeze_id: bytes, page_key: Ed25519PrivateKey) -> Seal:
    """Return the function that describes and signs a segment."""

    def seal(region: Region, index: int, data: Buffer) -> SignedManifest:
        return SignedManifest.sign(SegmentManifest.of(freeze_id, region, index, data), page_key)

    return seal


class _Pages:
    """One region's part of the book."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.digests = bytearray(region.segments * DIGEST_BYTES)
        # Place and length of each manifest in the file; a length of 0: not there.
        self.offsets = array.array("Q", bytes(8 * region.segments))
        self.lengths = array.array("I", bytes(4 * region.segments))
        self.known = bytearray(region.segments)
        self.cursor = 0


class Book:
    """Manifests of all regions. Several threads use it at once."""

    def __init__(
        self, freeze_id: bytes, regions: RegionTable, directory: pathlib.Path, seal: Seal
    ) -> None:
        self._freeze_id = freeze_id
        self._regions = regions
        self._seal = seal
        self._pages = {region.id: _Pages(region) for region in regions.values()}
        self._lock = threading.Lock()
        self._file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._end = 0
        self._file_full = False
        self._counts = Counts()
        self._missing = sum(region.segments for region in regions.values())
        self._root: bytes | None = None

    def signed(self, region: Region, index: int, data: Buffer | None) -> SignedManifest | None:
        """The segment's signed manifest; made from ``data`` when it is not in the book yet.

        :return: None when it is not in the book and ``data`` is None
        :raises SourceGone: when the source gave other bytes than before
        """
        found = self._read(region, index)
        if found is not None or data is None:
            return found
        signed = self._seal(region, index, data)
        self._enter(region, index, signed)
        return signed

    def _read(self, region: Region, index: int) -> SignedManifest | None:
        pages = self._pages[region.id]
        with self._lock:
            length, offset = pages.lengths[index], pages.offsets[index]
        return SignedManifest.decode(os.pread(self._file, length, offset)) if length else None

    def _enter(self, region: Region, index: int, signed: SignedManifest) -> None:
        pages = self._pages[region.id]
        place = slice(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)
        manifest = SegmentManifest.decode(signed.manifest)
        with self._lock:
            self._keep(pages, index, signed.encode())
            if pages.known[index]:
                if pages.digests[place] != signed.digest:
                    where = f"region {region.id} segment {index}"
                    raise SourceGone(f"{where} is not what it was before")
                return
            pages.digests[place] = signed.digest
            pages.known[index] = 1
            self._missing -= 1
            size = region.segment_bytes(index)
            self._counts += Counts(1, manifest.leaf_count, manifest.zero_count, size)

    def _keep(self, pages: _Pages, index: int, raw: bytes) -> None:
        if pages.lengths[index] or self._file_full:
            return
        try:
            written = os.pwrite(self._file, raw, self._end)
        except OSError as error:
            written = 0
            LOG.warning("manifests are not kept but made again when asked for: %s", error)
        if written != len(raw):
            self._file_full = True
            return
        pages.offsets[index], pages.lengths[index] = self._end, written
        self._end += written

    def next_unknown(self) -> tuple[Region, int] | None:
        """A segment that is not in the book yet; None when all are."""
        with self._lock:
            for pages in self._pages.values():
                place = pages.known.find(0, pages.cursor)
                pages.cursor = len(pages.known) if place < 0 else place
                if place >= 0:
                    return pages.region, place
        return None

    @property
    def counts(self) -> Counts:
        """What is in the book so far."""
        with self._lock:
            return self._counts

    def root(self) -> tuple[bytes, Counts] | None:
        """The manifest root and the counts, when every segment is in the book."""
        with self._lock:
            if self._missing:
                return None
            if self._root is None:
                root = ManifestRoot(self._freeze_id, self._regions)
                for pages in self._pages.values():
                    raw = bytes(pages.digests)
                    steps = range(0, len(raw), DIGEST_BYTES)
                    root.add_region(pages.region, [raw[at : at + DIGEST_BYTES] for at in steps])
                self._root = root.digest()
            return self._root, self._counts

    def close(self) -> None:
        """Let the file go."""
        with contextlib.suppress(OSError):
            os.close(self._file)
