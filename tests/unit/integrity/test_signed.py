"""Manifests that share a signature are each bound to it, and to nothing else."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.integrity import signed as module
from nova_trusted_clone.core.integrity.signed import PageKey, SignedManifest, sign_batch

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
MANIFESTS = [b"manifest %d" % number for number in range(module.MAX_BATCH)]


class CountingKey:
    """A public key that counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self._key = KEY.public_key()

    def verify(self, signature: bytes, data: bytes) -> None:
        self.asked += 1
        self._key.verify(signature, data)


def counting() -> tuple[PageKey, CountingKey]:
    key, counted = PageKey(PUBLIC), CountingKey()
    key._key = counted  # type: ignore[assignment]
    return key, counted


@pytest.mark.parametrize("count", range(1, module.MAX_BATCH + 1))
def test_a_batch_of_any_size_is_checked_one_by_one_and_its_signature_once(count: int) -> None:
    key, counted = counting()
    batch = sign_batch(MANIFESTS[:count], KEY)
    assert [one.manifest for one in batch] == MANIFESTS[:count]
    assert all(key.has_signed(SignedManifest.decode(one.encode())) for one in batch)
    assert counted.asked == 1


def test_a_bad_signature_is_checked_every_time() -> None:
    key, counted = counting()
    forged = dataclasses.replace(sign_batch(MANIFESTS[:2], KEY)[0], signature=bytes(64))
    assert not key.has_signed(forged)
    assert not key.has_signed(forged)
    assert counted.asked == 2


def test_the_root_of_one_batch_does_not_vouch_for_the_signature_of_another() -> None:
    key, _ = counting()
    first, second = sign_batch(MANIFESTS[:2], KEY)[0], sign_batch(MANIFESTS[2:4], KEY)[0]
    assert key.has_signed(first) and key.has_signed(second)
    assert not key.has_signed(dataclasses.replace(first, signature=second.signature))


def test_the_shape_is_frozen() -> None:
    first, _, third = sign_batch(MANIFESTS[:3], KEY)
    assert first.root == third.root
    assert first.root.hex() == "d1a0b56e8e3fa9a530a65b38f3a7c2d44a2c72c0938685545a8482a45a995964"
    assert third.siblings[:32] == bytes(32)
    assert (third.place, len(third.siblings)) == (2, 64)
    assert third.encode().hex() == (
        b"manifest 2".hex() + third.siblings.hex() + "0202" + third.signature.hex()
    )
    assert third.signature.hex() == (
        "42444df742de910133020ed55db0b6385a6a7ac87f4d69b87cdbff79f3f9376b"
        "a54f2d924daf67afe7449eb2b0f90330547b9be08d8b83bdca4afbc9473ef70d"
    )


def test_a_node_is_no_leaf() -> None:
    """The two children of a node, joined, are no manifest that anybody signed."""
    first, second, *_ = sign_batch(MANIFESTS[:4], KEY)
    below = b"".join(module._leaf(one.manifest) for one in (first, second))
    upper = SignedManifest(below, 0, first.siblings[32:], first.signature)
    assert not PageKey(PUBLIC).has_signed(upper)


@pytest.mark.parametrize("count", [0, module.MAX_BATCH + 1])
def test_a_batch_has_its_limits(count: int) -> None:
    with pytest.raises(ValueError, match="manifests at once"):
        sign_batch([b"m"] * count, KEY)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(65),
        bytes((0, 5)) + bytes(64),
        bytes((2, 1)) + bytes(64),
        bytes((0, 1)) + bytes(64),
    ],
)
def test_a_tail_that_no_tree_has_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedInput, match="signed manifest"):
        SignedManifest.decode(raw)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, module.MAX_BATCH),
    st.integers(0, module.MAX_BATCH - 1),
    st.integers(0, 400),
    st.integers(1, 255),
)
def test_any_changed_byte_counts(count: int, place: int, offset: int, flip: int) -> None:
    genuine = sign_batch(MANIFESTS[:count], KEY)[place % count]
    raw = bytearray(genuine.encode())
    raw[offset % len(raw)] ^= flip
    with contextlib.suppress(MalformedInput):
        assert not PageKey(PUBLIC).has_signed(SignedManifest.decode(bytes(raw)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_core_error_or_come_back(raw: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        assert SignedManifest.decode(raw).encode() == raw
