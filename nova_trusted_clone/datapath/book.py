"""The exporter's book of manifests: each segment hashed and signed once, and the root when all are.

What stays in memory is 44 bytes a segment (one part in 20,000 of the guest); the manifests
themselves lie in an unnamed file. If there is no room for them they are made again when asked for:
the encoding is deterministic, so the same segment gives the same manifest, whoever it is signed with.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.leaf import DIGEST_BYTES, Buffer
from nova_trusted_clone.core.integrity.manifest import Counts, ManifestRoot, Region, RegionTable
from nova_trusted_clone.core.integrity.segment import SegmentManifest
from nova_trusted_clone.core.integrity.signed import SignedManifest, sign_batch
from nova_trusted_clone.datapath.errors import SourceGone

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Sealer:
    """What describes segments and signs what they were found to be.

    :ivar describe: hashes a segment's bytes; its manifest
    :ivar sign: signs up to ``MAX_BATCH`` manifests with one signature
    """

    describe: Callable[[Region, int, Buffer], SegmentManifest]
    sign: Callable[[Sequence[bytes]], list[SignedManifest]]

    @classmethod
    def of(cls, freeze_id: bytes, page_key: Ed25519PrivateKey) -> Sealer:
        """The one of a freeze."""
        return cls(
            functools.partial(SegmentManifest.of, freeze_id),
            functools.partial(sign_batch, page_key=page_key),
        )


@dataclasses.dataclass(frozen=True)
class Draft:
    """A segment that was described and is not signed yet.

    :ivar leaves: the bytes to send with it
    """

    region: Region
    manifest: SegmentManifest
    leaves: Buffer = dataclasses.field(default=b"", repr=False)


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
        self, freeze_id: bytes, regions: RegionTable, directory: pathlib.Path, sealer: Sealer
    ) -> None:
        self._freeze_id = freeze_id
        self._regions = regions
        self._sealer = sealer
        self._pages = {region.id: _Pages(region) for region in regions.values()}
        self._lock = threading.Lock()
        self._file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._end = 0
        self._file_full = False
        self._counts = Counts()
        self._missing = sum(region.segments for region in regions.values())
        self._root: bytes | None = None

    def draft(self, region: Region, index: int, data: Buffer) -> Draft:
        """Describe a segment's bytes."""
        return Draft(region, self._sealer.describe(region, index, data))

    def sign(self, drafts: Sequence[Draft]) -> list[SignedManifest]:
        """Sign up to ``MAX_BATCH`` segments at once and enter them.

        :raises SourceGone: when the source gave other bytes than before
        """
        signed = self._sealer.sign([draft.manifest.encode() for draft in drafts])
        for draft, one in zip(drafts, signed, strict=True):
            self._enter(draft.region, draft.manifest, one)
        return signed

    def signed(self, region: Region, index: int) -> SignedManifest | None:
        """The segment's signed manifest, if it is in the book."""
        pages = self._pages[region.id]
        with self._lock:
            length, offset = pages.lengths[index], pages.offsets[index]
        return SignedManifest.decode(os.pread(self._file, length, offset)) if length else None

    def _enter(self, region: Region, manifest: SegmentManifest, signed: SignedManifest) -> None:
        pages, index = self._pages[region.id], manifest.index
        place = slice(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)
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
