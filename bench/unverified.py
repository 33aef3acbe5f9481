"""The parts of a transfer that prove nothing, in the place of those that do. Only the bench has them.

Everything else is as in the product: frames, manifests of the same length, the zero bitmap (zero
pages are never sent, whoever verifies), files and bitmaps. What is left out is hashing, signing and
verifying.
"""

from __future__ import annotations

from collections.abc import Sequence

from nova_trusted_clone.core.integrity.leaf import DIGEST_BYTES, Buffer, zero_bitmap
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.core.integrity.segment import (
    FREEZE_EPOCH,
    SegmentManifest,
)
from nova_trusted_clone.core.integrity.signed import SIGNATURE_BYTES, SignedManifest
from nova_trusted_clone.datapath.book import Sealer
from nova_trusted_clone.datapath.verified import Verifier


def unsealed(freeze_id: bytes) -> Sealer:
    """What describes segments without hashing a leaf, and signs nothing."""

    def describe(region: Region, index: int, data: Buffer) -> SegmentManifest:
        zeros = int.from_bytes(zero_bitmap(data), "little")
        leaves = region.segment_leaves(index)
        digests = bytes((leaves - zeros.bit_count()) * DIGEST_BYTES)
        return SegmentManifest(freeze_id, region.id, index, FREEZE_EPOCH, leaves, zeros, digests)

    def sign(manifests: Sequence[bytes]) -> list[SignedManifest]:
        return [SignedManifest(raw, 0, b"", bytes(SIGNATURE_BYTES)) for raw in manifests]

    return Sealer(describe, sign)


class NoVerifier(Verifier):
    """Believes what it is told."""

    def manifest(self, signed: SignedManifest, region: Region, index: int) -> SegmentManifest:
        """Read the manifest."""
        return SegmentManifest.decode(signed.manifest)

    def leaves(
        self, manifest: SegmentManifest, region: Region, wanted_bits: int, data: Buffer
    ) -> None:
        """Take the leaves as they are."""
