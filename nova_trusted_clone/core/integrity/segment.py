"""The signed list of a segment's leaves: what makes each 4 KiB of a clone provably the source's.

A manifest says: of this freeze, this region, this segment, these leaves are zero and the others
hash to these digests. The freeze's page key signs it (``signed.py``); the key itself is vouched for
by a TPM quote. Index, region, freeze and epoch stand inside, so that a segment cannot be moved, replayed or
mixed with another freeze's.

    manifest  = label 8 | algorithm 8 | freeze id 16 | region u32 | index u32 | epoch u32
                | leaves u16 | digests u16 | zero bitmap 32 | digest 32 for each leaf not zero

All numbers are big-endian.

Version rule: any change of shape takes a new label. There is one encoding of each manifest, so
bytes compare.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

from nova_trusted_clone.core.errors import CoreError, MalformedInput
from nova_trusted_clone.core.integrity.leaf import (
    DIGEST_BYTES,
    LEAF_BYTES,
    LEAVES_PER_SEGMENT,
    Buffer,
    digest_segment,
    hash_leaves,
)
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.core.integrity.signed import PageKey, SignedManifest

LABEL = b"tc-seg-1"
ALGORITHM = b"sha256\0\0"
# A freeze has one instant and so one epoch; the field is there for later rounds of one freeze. Zero
# is never valid.
FREEZE_EPOCH = 1
_HEADER = struct.Struct(">8s8s16sIIIHH32s")
MAX_MANIFEST_BYTES = _HEADER.size + LEAVES_PER_SEGMENT * DIGEST_BYTES
ALL_LEAVES = (1 << LEAVES_PER_SEGMENT) - 1


class SegmentError(CoreError):
    """A segment is not what the source signed, or not the one that was asked for."""


def _refuse(what: str, message: str) -> SegmentError:
    return SegmentError(message, code=f"trusted-clone.segment.{what}")


@dataclasses.dataclass(frozen=True)
class SegmentManifest:
    """One segment's leaves.

    :ivar zero_bits: bit n is set when leaf n is all zero
    :ivar digests: SHA-256 of each leaf that is not zero, in order, 32 bytes each
    """

    freeze_id: bytes
    region: int
    index: int
    epoch: int
    leaf_count: int
    zero_bits: int
    digests: bytes = dataclasses.field(repr=False)

    @classmethod
    def of(
        cls, freeze_id: bytes, region: Region, index: int, data: Buffer, epoch: int = FREEZE_EPOCH
    ) -> SegmentManifest:
        """Describe a segment's bytes.

        :raises MalformedInput: when ``data`` is not as long as the segment
        """
        size = memoryview(data).nbytes
        if size != region.segment_bytes(index):
            expected = region.segment_bytes(index)
            raise MalformedInput(
                f"region {region.id}: segment {index} has {size} bytes, not {expected}"
            )
        bitmap, digests = digest_segment(data)
        zeros = int.from_bytes(bitmap, "little")
        return cls(freeze_id, region.id, index, epoch, region.segment_leaves(index), zeros, digests)

    @property
    def zero_count(self) -> int:
        """How many leaves are zero."""
        return self.zero_bits.bit_count()

    @property
    def present_bits(self) -> int:
        """Bit n is set when leaf n is there and not zero."""
        return ((1 << self.leaf_count) - 1) & ~self.zero_bits

    def encode(self) -> bytes:
        """The one encoding of it."""
        bitmap = self.zero_bits.to_bytes(LEAVES_PER_SEGMENT // 8, "little")
        count = len(self.digests) // DIGEST_BYTES
        numbers = (self.region, self.index, self.epoch, self.leaf_count, count)
        return _HEADER.pack(LABEL, ALGORITHM, self.freeze_id, *numbers, bitmap) + self.digests

    @classmethod
    def decode(cls, raw: bytes) -> SegmentManifest:
        """Read a manifest.

        :raises MalformedInput: names the field
        """
        if not _HEADER.size <= len(raw) <= MAX_MANIFEST_BYTES:
            raise MalformedInput(f"segment manifest: {len(raw)} bytes")
        label, algorithm, freeze, region, index, epoch, leaves, count, bitmap = _HEADER.unpack_from(
            raw
        )
        if label != LABEL:
            raise MalformedInput("segment manifest: label: not one of this version")
        if algorithm != ALGORITHM:
            raise MalformedInput(f"segment manifest: algorithm {algorithm!r}: expected sha256")
        zeros = int.from_bytes(bitmap, "little")
        _require_shape(region, epoch, leaves, zeros, count, len(raw) - _HEADER.size)
        return cls(freeze, region, index, epoch, leaves, zeros, raw[_HEADER.size :])


def _require_shape(
    region: int, epoch: int, leaves: int, zeros: int, count: int, digest_bytes: int
) -> None:
    if not region or not epoch:
        raise MalformedInput("segment manifest: region or epoch is zero")
    if not 0 < leaves <= LEAVES_PER_SEGMENT:
        raise MalformedInput(
            f"segment manifest: {leaves} leaves: expected 1 to {LEAVES_PER_SEGMENT}"
        )
    if zeros >> leaves:
        raise MalformedInput("segment manifest: zero bitmap: bits beyond the last leaf")
    if count != leaves - zeros.bit_count() or digest_bytes != count * DIGEST_BYTES:
        raise MalformedInput(
            f"segment manifest: {count} digests, {digest_bytes} bytes of them, for {leaves} leaves"
        )


def require_manifest(
    signed: SignedManifest,
    page_key: PageKey,
    freeze_id: bytes,
    region: Region,
    index: int,
    epoch: int = FREEZE_EPOCH,
) -> SegmentManifest:
    """Return the manifest if the page key signed it for exactly this segment.

    :raises SegmentError: with the code of the check that failed
    """
    if not page_key.has_signed(signed):
        raise _refuse(
            "signature", f"region {region.id} segment {index}: the signature is not the page key's"
        )
    manifest = SegmentManifest.decode(signed.manifest)
    for what, found, expected in (
        ("freeze", manifest.freeze_id.hex(), freeze_id.hex()),
        ("region", manifest.region, region.id),
        ("index", manifest.index, index),
        ("epoch", manifest.epoch, epoch),
        ("leaves", manifest.leaf_count, region.segment_leaves(index)),
    ):
        if found != expected:
            raise _refuse(
                what, f"region {region.id} segment {index}: {what} {found}, expected {expected}"
            )
    return manifest


def wanted_lengths(manifest: SegmentManifest, region: Region, wanted_bits: int) -> int:
    """How many bytes the wanted leaves that are not zero have."""
    present = manifest.present_bits & wanted_bits
    total = present.bit_count() * LEAF_BYTES
    if present >> (manifest.leaf_count - 1) & 1:
        total -= manifest.leaf_count * LEAF_BYTES - region.segment_bytes(manifest.index)
    return total


def require_leaves(
    manifest: SegmentManifest, region: Region, wanted_bits: int, data: Buffer
) -> None:
    """Require that ``data`` is the wanted leaves that are not zero, in order, as the manifest has
    them.

    :raises SegmentError: with the first leaf that differs
    """
    size, expected = memoryview(data).nbytes, wanted_lengths(manifest, region, wanted_bits)
    where = f"region {region.id} segment {manifest.index}"
    if size != expected:
        raise _refuse("length", f"{where}: {size} bytes of leaves, expected {expected}")
    if hash_leaves(data) != (want := digests_of(manifest, wanted_bits)):
        leaf = _first_difference(manifest, wanted_bits, hash_leaves(data), want)
        raise _refuse("leaf", f"{where}: leaf {leaf} is not what the source signed")


def digests_of(manifest: SegmentManifest, wanted_bits: int) -> bytes:
    """The digests of the wanted leaves that are not zero, in order."""
    if manifest.present_bits & ~wanted_bits == 0:
        return manifest.digests
    return b"".join(
        manifest.digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]
        for place, leaf in enumerate(each_bit(manifest.present_bits))
        if wanted_bits >> leaf & 1
    )


def _first_difference(
    manifest: SegmentManifest, wanted_bits: int, found: bytes, expected: bytes
) -> int:
    for place, leaf in enumerate(each_bit(manifest.present_bits & wanted_bits)):
        window = slice(place * DIGEST_BYTES, (place + 1) * DIGEST_BYTES)
        if found[window] != expected[window]:
            return leaf
    raise AssertionError("two lists of digests differ and are the same")


def each_bit(bits: int) -> Iterator[int]:
    """The places of the bits that are set, lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def each_run(bits: int) -> Iterator[tuple[int, int]]:
    """Runs of set bits as (start, stop), lowest first."""
    start = 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        start, bits = start + skip, bits >> skip
        length = (~bits & (bits + 1)).bit_length() - 1
        yield start, start + length
        start, bits = start + length, bits >> length
