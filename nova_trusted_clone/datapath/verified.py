"""All regions of a freeze at the store: what is verified, who waits, what failed.

This is the gate: :meth:`VerifiedRegions.accept` is the only way in for bytes, and it checks manifest and leaves before it
writes any. :meth:`read` is the only way out, and gives nothing that did not come in so. Threads may use all of it.
"""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable

from nova_trusted_clone.core.integrity.leaf import LEAF_BYTES, SEGMENT_BYTES, Buffer
from nova_trusted_clone.core.integrity.manifest import Counts, ManifestRoot, Region, RegionTable
from nova_trusted_clone.core.integrity.segment import (
    SegmentManifest,
    require_leaves,
    require_manifest,
)
from nova_trusted_clone.core.integrity.signed import PageKey, SignedManifest
from nova_trusted_clone.datapath import bulk
from nova_trusted_clone.datapath.cache import RegionCache
from nova_trusted_clone.datapath.errors import FrameError, StoreFailed
from nova_trusted_clone.datapath.filters.rate import RateMeter
from nova_trusted_clone.datapath.prefetch import Place, Prefetch
from nova_trusted_clone.datapath.staging import Staging


class Verifier:
    """Checks what comes from the exporter. The bench measures with another one; there is no option for it."""

    def __init__(self, freeze_id: bytes, page_key: bytes) -> None:
        """Take the page key's public part, 32 bytes."""
        self._freeze_id = freeze_id
        self._page_key = PageKey(page_key)

    def manifest(self, signed: SignedManifest, region: Region, index: int) -> SegmentManifest:
        """Return the manifest if it is this segment's, signed.

        :raises CoreError: otherwise
        """
        return require_manifest(signed, self._page_key, self._freeze_id, region, index)

    def leaves(
        self, manifest: SegmentManifest, region: Region, wanted_bits: int, data: Buffer
    ) -> None:
        """Require that ``data`` is the wanted leaves.

        :raises CoreError: otherwise
        """
        require_leaves(manifest, region, wanted_bits, data)


class VerifiedRegions:
    """The regions of one freeze."""

    def __init__(
        self,
        freeze_id: bytes,
        regions: RegionTable,
        directory: pathlib.Path,
        verifier: Verifier,
        staging: Staging,
    ) -> None:
        """Make or reopen the regions' files.

        :raises OSError: when there is no room for them
        """
        self.regions = regions
        self._freeze_id = freeze_id
        self._verifier = verifier
        self._staging = staging
        self._caches = {r.id: RegionCache(r, directory / str(r.id)) for r in regions.values()}
        self._condition = threading.Condition()
        self._prefetch = Prefetch(regions, self._missing)
        self._waiters: dict[Place, list[Callable[[], None]]] = {}
        self._failure: StoreFailed | None = None
        self._distrusted = False
        self._summary: tuple[bytes, Counts] | None = None
        self.verified_rate = RateMeter()
        self.faults = 0
        self.promoted_leaves = 0
        with self._condition:
            self._finish_if_complete()

    def _missing(self, place: Place) -> int:
        return self._caches[place.region].missing(place.index)

    # -- what is to be fetched --

    def next_request(self, faults_only: bool, wait_s: float) -> bulk.SegmentRequest | None:
        """What to ask the exporter for next; None when there is nothing within ``wait_s``.

        :raises StoreFailed: when nothing is to be fetched any more
        """
        with self._condition:
            place = self._next_place(faults_only)
            if place is None and wait_s:
                self._condition.wait(wait_s)
                place = self._next_place(faults_only)
            if place is None:
                return None
            staged = self._staging.has(self.regions[place.region], place.index)
            wanted = 0 if staged else self._missing(place)
            return bulk.SegmentRequest(place.region, place.index, wanted)

    def _next_place(self, faults_only: bool) -> Place | None:
        self._require_sound()
        return self._prefetch.next_fault() if faults_only else self._prefetch.next_any()

    def put_back(self, request: bulk.SegmentRequest) -> None:
        """A request was lost with its connection."""
        with self._condition:
            self._prefetch.put_back(Place(request.region, request.index))
            self._condition.notify_all()

    # -- the way in --

    def accept(self, request: bulk.SegmentRequest, reply: bulk.SegmentReply) -> int:
        """Verify a reply, keep its leaves, wake who waits for them.

        :return: the leaves that are still to be asked for, when the request was for the manifest alone
        :raises CoreError: when anything is not what the source signed
        :raises FrameError: when it answers another request
        :raises OSError: when it cannot be written
        """
        if (reply.region, reply.index) != (request.region, request.index):
            raise FrameError(
                f"asked for region {request.region} segment {request.index},"
                f" got region {reply.region} segment {reply.index}"
            )
        region, cache = self.regions[request.region], self._caches[request.region]
        manifest = self._verifier.manifest(reply.signed, region, request.index)
        self._verifier.leaves(manifest, region, request.wanted_bits, reply.data)
        with self._condition:
            self._require_sound()
            cache.note_manifest(manifest, reply.signed.digest)
        cache.write(manifest, request.wanted_bits, reply.data)
        verified = request.wanted_bits
        if not verified:
            verified = self._promote(region, manifest)
        return self._enter(cache, manifest, verified)

    def _promote(self, region: Region, manifest: SegmentManifest) -> int:
        """Take those staged leaves whose digests, computed anew, are the signed ones."""
        bits, data = self._staging.matching(region, manifest)
        self._caches[region.id].write(manifest, bits, data)
        self.promoted_leaves += bits.bit_count()
        return bits

    def _enter(self, cache: RegionCache, manifest: SegmentManifest, verified_bits: int) -> int:
        place = Place(manifest.region, manifest.index)
        with self._condition:
            fresh = cache.enter(manifest, verified_bits)
            missing = cache.missing(manifest.index)
            woken = [] if missing else self._waiters.pop(place, [])
            if not missing:
                self._prefetch.done(place)
                self._finish_if_complete()
        self.verified_rate.add(fresh * LEAF_BYTES)
        for wake in woken:
            wake()
        return missing

    def _finish_if_complete(self) -> None:
        if not all(cache.leaves.complete for cache in self._caches.values()):
            return
        root, counts = ManifestRoot(self._freeze_id, self.regions), Counts()
        for region in self.regions.values():
            cache = self._caches[region.id]
            root.add_region(region, cache.digests())
            zeros = cache.zero_leaves()
            counts += Counts(region.segments, region.leaves, zeros, region.size_bytes)
        self._summary = (root.digest(), counts)
        self._condition.notify_all()

    # -- the way out --

    def read_now(self, region_id: int, offset: int, size: int) -> bytes | None:
        """Verified bytes if they are there and in memory; None: ask ``wait_for``, then ``read``.

        :raises StoreFailed: when they will never be there
        """
        if not self.has(region_id, offset, size):
            return None
        return self._caches[region_id].read_now(offset, size)

    def has(self, region_id: int, offset: int, size: int) -> bool:
        """Whether a range of bytes is verified.

        :raises StoreFailed: when it is not and never will be; after a failed verification, always
        """
        with self._condition:
            if self._distrusted:
                self._require_sound()
            if self._caches[region_id].has(offset, size):
                return True
            self._require_sound()
            return False

    def read(self, region_id: int, offset: int, size: int) -> bytes:
        """Bytes of a range that ``has`` found verified; may wait for the disk."""
        return self._caches[region_id].read(offset, size)

    def wait_for(self, region_id: int, offset: int, size: int, wake: Callable[[], None]) -> None:
        """Fetch a range before anything else; call ``wake`` when some of it came, or nothing more will."""
        cache = self._caches[region_id]
        last = (min(offset + size, cache.region.size_bytes) - 1) // SEGMENT_BYTES
        places = [Place(region_id, index) for index in range(offset // SEGMENT_BYTES, last + 1)]
        with self._condition:
            missing = [place for place in places if self._missing(place)]
            if missing and self._failure is None:
                self.faults += 1
                for place in missing:
                    self._prefetch.fault(place)
                self._waiters.setdefault(missing[0], []).append(wake)
                self._condition.notify_all()
                return
        wake()

    def path_if_complete(self, region_id: int) -> pathlib.Path | None:
        """The file of a region that is verified whole.

        :raises StoreFailed: when it never will be
        """
        region = self.regions[region_id]
        complete = self.has(region_id, 0, region.size_bytes)
        return self._caches[region_id].path if complete else None

    # -- how it stands --

    def fail(self, error: Exception, *, distrust: bool = False) -> None:
        """Nothing more comes in; who waits is told. The first reason stays.

        :param distrust: nothing comes out either, not even what was verified before
        """
        code = getattr(error, "code", StoreFailed.code)
        with self._condition:
            if self._failure is None and self._summary is None:
                self._failure = StoreFailed(str(error), code=code)
                self._distrusted = distrust
            woken = [wake for wakes in self._waiters.values() for wake in wakes]
            self._waiters.clear()
            self._condition.notify_all()
        for wake in woken:
            wake()

    def _require_sound(self) -> None:
        if self._failure is not None:
            raise self._failure

    @property
    def failure(self) -> StoreFailed | None:
        """Why it failed, if it did."""
        with self._condition:
            return self._failure

    @property
    def summary(self) -> tuple[bytes, Counts] | None:
        """The manifest root and the counts, when everything is verified."""
        with self._condition:
            return self._summary

    def progress(self) -> dict[int, int]:
        """Verified leaves by region id."""
        with self._condition:
            return {number: cache.leaves.count for number, cache in self._caches.items()}

    def close(self) -> None:
        """Let the files go; nothing may use this any more."""
        self.fail(StoreFailed("the store was stopped"))
        for cache in self._caches.values():
            cache.close()
