"""Every field of a manifest is bound by its signature and checked against what was asked for."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.errors import CoreError, MalformedInput
from nova_trusted_clone.core.integrity import segment
from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.core.integrity.segment import SegmentManifest
from nova_trusted_clone.core.integrity.signed import PageKey, SignedManifest, sign_batch

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FREEZE = bytes(range(16))
REGION = Region(7, "ram", "pc.ram", SEGMENT_BYTES + 2 * 4096 + 10)
# Segment 1: a leaf of ones, a zero leaf, and a short one.
DATA = b"\1" * 4096 + bytes(4096) + b"short leaf"
VECTOR = (
    "74632d7365672d31" "7368613235360000" "000102030405060708090a0b0c0d0e0f"
    "00000007" "00000001" "00000001" "0003" "0002"
    "0200000000000000000000000000000000000000000000000000000000000000"
)  # fmt: skip


PUBLIC = KEY.public_key().public_bytes_raw()


def sign(manifest: SegmentManifest, key: Ed25519PrivateKey = KEY) -> SignedManifest:
    (one,) = sign_batch([manifest.encode()], key)
    return one


def signed() -> SignedManifest:
    return sign(SegmentManifest.of(FREEZE, REGION, 1, DATA))


def require(given: SignedManifest, **changed: object) -> SegmentManifest:
    arguments: dict[str, object] = {"freeze_id": FREEZE, "region": REGION, "index": 1, **changed}
    return segment.require_manifest(given, PageKey(PUBLIC), **arguments)  # type: ignore[arg-type]


def code(given: SignedManifest, **changed: object) -> str:
    with pytest.raises(CoreError) as caught:
        require(given, **changed)
    return caught.value.code.removeprefix("trusted-clone.")


def test_the_encoding_is_frozen() -> None:
    digests = hashlib.sha256(DATA[:4096]).digest() + hashlib.sha256(DATA[8192:]).digest()
    assert signed().manifest.hex() == VECTOR + digests.hex()
    assert signed().signature.hex() == (
        "195035a92f07e529ad70d69fca2d1ab5d6a04ba6efd00e3ffd5136feb471d672"
        "ce5737d9f2b1b3983610b54f511d400f2ce276f1adada9a02585e71eabfb0c0b"
    )


def test_a_manifest_comes_back_as_it_was() -> None:
    manifest = SegmentManifest.of(FREEZE, REGION, 1, DATA)
    assert SegmentManifest.decode(manifest.encode()) == manifest
    assert SignedManifest.decode(signed().encode()) == signed()
    assert require(signed()) == manifest
    assert (manifest.zero_count, manifest.present_bits) == (1, 0b101)


def test_every_bit_of_manifest_and_signature_counts() -> None:
    raw = signed().encode()
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 0x10
        with pytest.raises(CoreError) as caught:
            require(SignedManifest.decode(bytes(changed)))
        # A place or depth that no tree has is found before the signature is.
        expected = "malformed" if place in (len(raw) - 66, len(raw) - 65) else "segment.signature"
        assert caught.value.code == f"trusted-clone.{expected}"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("freeze_id", bytes(16), "segment.freeze"),
        ("region", 8, "segment.region"),
        ("index", 0, "segment.index"),
        ("epoch", 2, "segment.epoch"),
    ],
)
def test_a_genuine_manifest_of_another_segment_is_refused(
    field: str, value: object, expected: str
) -> None:
    manifest = dataclasses.replace(SegmentManifest.of(FREEZE, REGION, 1, DATA), **{field: value})
    assert code(sign(manifest)) == expected


def test_a_manifest_of_another_length_is_refused() -> None:
    longer = Region(7, "ram", "pc.ram", 2 * SEGMENT_BYTES)
    manifest = SegmentManifest.of(FREEZE, longer, 1, bytes(SEGMENT_BYTES))
    assert code(sign(manifest)) == "segment.leaves"


def test_another_key_is_refused() -> None:
    other = sign(SegmentManifest.of(FREEZE, REGION, 1, DATA), Ed25519PrivateKey.generate())
    assert code(other) == "segment.signature"


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"tc-seg-2"),
        (8, b"sha1\0\0\0\0"),
        (32, bytes(4)),
        (40, bytes(4)),
        (44, b"\0\0"),
        (44, b"\1\1"),
        (46, b"\0\3"),
        (48, b"\x0a"),
        (79, b"\1"),
    ],
)
def test_a_manifest_has_one_shape_even_when_signed(offset: int, value: bytes) -> None:
    raw = bytearray(signed().manifest)
    raw[offset : offset + len(value)] = value
    (resigned,) = sign_batch([bytes(raw)], KEY)
    assert code(resigned) == "malformed"


def test_lengths_are_checked_before_anything_is_read() -> None:
    for raw in (b"", bytes(10), signed().manifest[:79], signed().manifest + bytes(1 << 14)):
        with pytest.raises(MalformedInput):
            SegmentManifest.decode(raw)


def present(bits: int) -> bytes:
    leaves = (DATA[:4096], DATA[4096:8192], DATA[8192:])
    return b"".join(leaf for n, leaf in enumerate(leaves) if bits >> n & 1 and n != 1)


@pytest.mark.parametrize("wanted", [0, 1, 2, 4, 5, 7, segment.ALL_LEAVES])
def test_any_subset_of_leaves_can_travel_alone(wanted: int) -> None:
    manifest = require(signed())
    segment.require_leaves(manifest, REGION, wanted, present(wanted))


def test_a_leaf_that_differs_is_named() -> None:
    manifest = require(signed())
    with pytest.raises(segment.SegmentError, match="leaf 2") as caught:
        segment.require_leaves(manifest, REGION, 7, DATA[:4096] + b"short_leaf")
    assert caught.value.code == "trusted-clone.segment.leaf"
    for data in (present(7)[:-1], present(7) + b"x", b"", DATA):
        with pytest.raises(segment.SegmentError) as caught:
            segment.require_leaves(manifest, REGION, 7, data)
        assert caught.value.code == "trusted-clone.segment.length"


def test_leaves_cannot_change_places() -> None:
    region = Region(1, "ram", "a", 2 * 4096)
    data = b"a" * 4096 + b"b" * 4096
    manifest = SegmentManifest.of(FREEZE, region, 0, data)
    with pytest.raises(segment.SegmentError):
        segment.require_leaves(manifest, region, 3, data[4096:] + data[:4096])


def test_runs_and_bits() -> None:
    assert list(segment.each_bit(0b101001)) == [0, 3, 5]
    assert list(segment.each_run(0b1110_0110_1000)) == [(3, 4), (5, 7), (9, 12)]
    assert list(segment.each_run(0)) == []
    assert list(segment.each_run(segment.ALL_LEAVES)) == [(0, 256)]
