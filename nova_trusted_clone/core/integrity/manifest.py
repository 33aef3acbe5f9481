"""All regions of a freeze, and the one digest that the final quotes of both hosts cover."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import struct
from collections.abc import Iterable, Iterator, Mapping

from nova_trusted_clone.core.errors import CoreError, MalformedInput
from nova_trusted_clone.core.integrity.leaf import DIGEST_BYTES, SEGMENT_BYTES, leaf_count

ROOT_LABEL = b"trusted-clone/1/manifest-root"
FREEZE_ID_BYTES = 16
# QEMU's block names are at most 255 bytes; a server has few dozens of blocks and disks.
MAX_NAME_BYTES = 255
MAX_REGIONS = 4096
# Above what QEMU or a file system can have; keeps index arithmetic within 64 bits on the wire.
MAX_REGION_BYTES = 1 << 56
_KIND = re.compile(r"[a-z][a-z0-9-]{0,15}")


@dataclasses.dataclass(frozen=True, order=True)
class Region:
    """A RAM block, a disk or a file of a freeze.

    :ivar id: 1 and up, unique in the freeze
    :ivar kind: ``ram``, ``disk``, ``device``, ``domain`` and the like
    :ivar name: unique within its kind
    :raises MalformedInput: names the field
    """

    id: int
    kind: str
    name: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not 0 < self.id < 1 << 32:
            raise MalformedInput(f"region id {self.id}: expected 1 to {(1 << 32) - 1}")
        if not _KIND.fullmatch(self.kind):
            raise MalformedInput(
                f"region {self.id}: kind {self.kind!r}: expected lower-case letters"
            )
        if not 0 < len(self.name.encode()) <= MAX_NAME_BYTES or not self.name.isprintable():
            raise MalformedInput(
                f"region {self.id}: name: expected 1 to {MAX_NAME_BYTES} printable bytes"
            )
        if not 0 < self.size_bytes <= MAX_REGION_BYTES:
            raise MalformedInput(f"region {self.id}: size_bytes {self.size_bytes}: out of range")

    @property
    def segments(self) -> int:
        """How many 1 MiB segments it has; the last may be short."""
        return -(-self.size_bytes // SEGMENT_BYTES)

    @property
    def leaves(self) -> int:
        """How many 4 KiB leaves it has; the last may be short."""
        return leaf_count(self.size_bytes)

    def segment_bytes(self, index: int) -> int:
        """The size of segment ``index``.

        :raises MalformedInput: when there is no such segment
        """
        if not 0 <= index < self.segments:
            raise MalformedInput(f"region {self.id} has no segment {index}, only {self.segments}")
        return min(SEGMENT_BYTES, self.size_bytes - index * SEGMENT_BYTES)

    def segment_leaves(self, index: int) -> int:
        """How many leaves segment ``index`` has."""
        return leaf_count(self.segment_bytes(index))


class RegionTable(Mapping[int, Region]):
    """The regions of a freeze by id, in id order.

    :raises MalformedInput: when an id, or a name within its kind, stands twice
    """

    def __init__(self, regions: Iterable[Region]) -> None:
        ordered = sorted(regions)
        if len(ordered) > MAX_REGIONS:
            raise MalformedInput(f"{len(ordered)} regions: at most {MAX_REGIONS}")
        self._by_id = {region.id: region for region in ordered}
        names = {(region.kind, region.name) for region in ordered}
        if len(self._by_id) != len(ordered) or len(names) != len(ordered):
            raise MalformedInput("a region's id or name stands twice")

    @classmethod
    def from_rows(cls, rows: object) -> RegionTable:
        """Read ``[[id, kind, name, size_bytes], ...]``.

        :raises MalformedInput: names the row
        """
        if not isinstance(rows, list | tuple):
            raise MalformedInput("regions: expected a list")
        return cls(_region_from_row(number, row) for number, row in enumerate(rows))

    def to_rows(self) -> list[list[int | str]]:
        """The same table as ``from_rows`` reads."""
        return [[r.id, r.kind, r.name, r.size_bytes] for r in self._by_id.values()]

    def __getitem__(self, region_id: int) -> Region:
        return self._by_id[region_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def named(self, kind: str, name: str) -> Region | None:
        """The region with this name, if there is one."""
        return next((r for r in self._by_id.values() if (r.kind, r.name) == (kind, name)), None)


def _region_from_row(number: int, row: object) -> Region:
    if not isinstance(row, list | tuple) or len(row) != 4:
        raise MalformedInput(f"regions[{number}]: expected [id, kind, name, size_bytes]")
    for value, expected, field in zip(
        row, (int, str, str, int), ("id", "kind", "name", "size_bytes"), strict=True
    ):
        if type(value) is not expected:
            raise MalformedInput(f"regions[{number}].{field}: expected {expected.__name__}")
    return Region(*row)


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a whole freeze holds."""

    segments: int = 0
    leaves: int = 0
    zero_leaves: int = 0
    bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.segments + other.segments,
            self.leaves + other.leaves,
            self.zero_leaves + other.zero_leaves,
            self.bytes + other.bytes,
        )


class IncompleteManifest(CoreError):
    """The root was asked for before every segment's manifest was there."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="trusted-clone.manifest.incomplete")


class ManifestRoot:
    """Takes each region's segment manifests' digests, in region id order, and gives the root.

    Root = SHA-256(label, freeze id, number of regions, then for each region: id, kind, name, size
    and SHA-256 over the concatenated SHA-256s of its segments' manifests in index order). Every
    part has a fixed length or its length before it.
    """

    def __init__(self, freeze_id: bytes, regions: RegionTable) -> None:
        if len(freeze_id) != FREEZE_ID_BYTES:
            raise MalformedInput(f"freeze_id: {len(freeze_id)} bytes, expected {FREEZE_ID_BYTES}")
        self._hash = hashlib.sha256(ROOT_LABEL + freeze_id + struct.pack(">I", len(regions)))
        self._pending = list(regions.values())[::-1]

    def add_region(self, region: Region, digests: Iterable[bytes]) -> None:
        """Add the next region by the SHA-256s of its segments' manifests in index order.

        :raises IncompleteManifest: when it is not this region's turn or a digest is missing
        """
        if not self._pending or self._pending.pop() != region:
            raise IncompleteManifest(f"region {region.id} ({region.name}) is not the next one")
        inner, count = hashlib.sha256(), 0
        for digest in digests:
            if len(digest) != DIGEST_BYTES:
                raise IncompleteManifest(
                    f"region {region.id}: the digest of segment {count} is missing"
                )
            inner.update(digest)
            count += 1
        if count != region.segments:
            raise IncompleteManifest(f"region {region.id}: {count} segments of {region.segments}")
        self._hash.update(_region_header(region) + inner.digest())

    def digest(self) -> bytes:
        """The root, 32 bytes.

        :raises IncompleteManifest: when a region is missing
        """
        if self._pending:
            raise IncompleteManifest(f"{len(self._pending)} regions are missing")
        return self._hash.digest()


def _region_header(region: Region) -> bytes:
    kind, name = region.kind.encode(), region.name.encode()
    return (
        struct.pack(">IB", region.id, len(kind))
        + kind
        + struct.pack(">H", len(name))
        + name
        + struct.pack(">Q", region.size_bytes)
    )
