"""The bench's stand-ins leave out the judging and nothing else."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench import content
from bench.unverified import NoVerifier, unsealed
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.integrity.leaf import LEAF_BYTES, SEGMENT_BYTES, zero_bitmap
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.core.integrity.segment import ALL_LEAVES
from nova_trusted_clone.core.integrity.signed import SignedManifest
from nova_trusted_clone.datapath.book import Sealer
from nova_trusted_clone.datapath.verified import Verifier

FREEZE = bytes(16)
REGION = Region(1, "ram", "pc.ram", 2 * SEGMENT_BYTES)
DATA = bytes(3 * LEAF_BYTES) + bytes([7]) * (SEGMENT_BYTES - 3 * LEAF_BYTES)


def made(by: Sealer) -> SignedManifest:
    (signed,) = by.sign([by.describe(REGION, 1, DATA).encode()])
    return signed


def test_an_unsealed_manifest_is_as_long_and_has_the_same_zero_leaves():
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    sealed, plain = (made(by) for by in (Sealer.of(FREEZE, key), unsealed(FREEZE)))

    believed = NoVerifier(FREEZE, public).manifest(plain, REGION, 1)

    assert len(plain.encode()) == len(sealed.encode())
    assert believed.zero_bits == 0b111
    assert (believed.region, believed.index, believed.leaf_count) == (1, 1, 256)


def test_what_the_bench_believes_the_product_refuses():
    public = Ed25519PrivateKey.generate().public_key()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    plain = made(unsealed(FREEZE))

    manifest = NoVerifier(FREEZE, raw).manifest(plain, REGION, 1)
    NoVerifier(FREEZE, raw).leaves(manifest, REGION, ALL_LEAVES, b"anything")

    with pytest.raises(CoreError):
        Verifier(FREEZE, raw).manifest(plain, REGION, 1)
    with pytest.raises(CoreError):
        Verifier(FREEZE, raw).leaves(manifest, REGION, ALL_LEAVES, b"anything")


def test_made_up_content_has_its_size_and_no_zero_leaf(tmp_path):
    path = tmp_path / "region"
    content.sparse(path, SEGMENT_BYTES, 4 * SEGMENT_BYTES)
    data = path.read_bytes()

    assert len(data) == 4 * SEGMENT_BYTES
    assert set(zero_bitmap(data[:SEGMENT_BYTES])) == {0}
    assert set(zero_bitmap(data[SEGMENT_BYTES:])) == {255}
