"""One signature for several segment manifests: what makes signing and checking cheap beside hashing.

An Ed25519 signature takes as long to check as a third of a segment takes to hash. So the exporter signs the manifests that it
is about to send together: they are the leaves of a small Merkle tree (RFC 9162, 2.1 has the idea), and the page key signs its
root. Each manifest still travels and is checked alone, with its path to the root; the store checks the signature of a root
once. A manifest that is sent alone is a tree of one.

    leaf      = SHA-256(0x00 | SHA-256(manifest))          node = SHA-256(0x01 | left | right)
    signature = Ed25519 (RFC 8032) over "trusted-clone/2/segments" | root
    on the wire: manifest | siblings, 32 bytes each, lowest first | place u8 | depth u8 | signature 64

A tree that is not full has zeros in the place of its missing leaves, which are no hash of anything known. Which manifests
share a tree carries no meaning: what a manifest is of stands in itself, and the manifest root of the freeze takes manifests,
not trees.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from nova_trusted_clone.core.errors import MalformedInput

SIGNATURE_LABEL = b"trusted-clone/2/segments"
SIGNATURE_BYTES = 64
HASH_BYTES = 32
# Sixteen segments in a tree: the signature then costs less than a hundredth of the hashing.
MAX_DEPTH = 4
MAX_BATCH = 1 << MAX_DEPTH
_TAIL_BYTES = 2 + SIGNATURE_BYTES
MAX_PROOF_BYTES = MAX_DEPTH * HASH_BYTES + _TAIL_BYTES
_NO_LEAF = bytes(HASH_BYTES)
# Lines times the trees that each may have under way; a forgotten root is merely checked again.
_REMEMBERED_ROOTS = 32


@dataclasses.dataclass(frozen=True)
class SignedManifest:
    """A manifest's bytes, its path to a root, and the page key's signature over that root.

    :ivar place: the leaf's number in the tree
    :ivar siblings: the other child at each level, lowest first, 32 bytes each
    """

    manifest: bytes = dataclasses.field(repr=False)
    place: int
    siblings: bytes = dataclasses.field(repr=False)
    signature: bytes = dataclasses.field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the manifest's bytes, as the manifest root takes it."""
        return hashlib.sha256(self.manifest).digest()

    @property
    def root(self) -> bytes:
        """The root of the tree that this manifest and its siblings make."""
        found, place = _leaf(self.manifest), self.place
        for start in range(0, len(self.siblings), HASH_BYTES):
            sibling = self.siblings[start : start + HASH_BYTES]
            found = _node(sibling, found) if place & 1 else _node(found, sibling)
            place >>= 1
        return found

    def encode(self) -> bytes:
        """Manifest, siblings, place and depth, signature."""
        depth = len(self.siblings) // HASH_BYTES
        return self.manifest + self.siblings + bytes((self.place, depth)) + self.signature

    @classmethod
    def decode(cls, raw: bytes) -> SignedManifest:
        """Split what :meth:`encode` joined; only lengths and the place are checked.

        :raises MalformedInput: when they cannot be
        """
        if len(raw) < _TAIL_BYTES:
            raise MalformedInput(f"signed manifest: {len(raw)} bytes")
        place, depth = raw[-_TAIL_BYTES], raw[-_TAIL_BYTES + 1]
        if depth > MAX_DEPTH or place >> depth:
            raise MalformedInput(f"signed manifest: place {place} in a tree of depth {depth}")
        siblings_at = len(raw) - _TAIL_BYTES - depth * HASH_BYTES
        if siblings_at < 0:
            raise MalformedInput(f"signed manifest: {len(raw)} bytes for a tree of depth {depth}")
        siblings = raw[siblings_at:-_TAIL_BYTES]
        return cls(raw[:siblings_at], place, siblings, raw[-SIGNATURE_BYTES:])


def sign_batch(manifests: Sequence[bytes], page_key: Ed25519PrivateKey) -> list[SignedManifest]:
    """Sign 1 to ``MAX_BATCH`` manifests at once; they come back in their order.

    :raises ValueError: when there are none, or more
    """
    if not 0 < len(manifests) <= MAX_BATCH:
        raise ValueError(f"{len(manifests)} manifests at once: 1 to {MAX_BATCH} expected")
    levels = _tree([_leaf(manifest) for manifest in manifests])
    signature = page_key.sign(SIGNATURE_LABEL + levels[-1][0])
    return [
        SignedManifest(manifest, place, _path(levels, place), signature)
        for place, manifest in enumerate(manifests)
    ]


class PageKey:
    """The public part of a freeze's page key; it remembers the roots that it found signed."""

    def __init__(self, public_bytes: bytes) -> None:
        """:raises ValueError: when they are not 32 bytes of an Ed25519 key"""
        self._key = Ed25519PublicKey.from_public_bytes(public_bytes)
        self._known: tuple[tuple[bytes, bytes], ...] = ()

    def has_signed(self, signed: SignedManifest) -> bool:
        """Whether the signature is this key's, over the root that the manifest leads to."""
        found = (signed.root, signed.signature)
        if found in self._known:
            return True
        try:
            self._key.verify(signed.signature, SIGNATURE_LABEL + found[0])
        except InvalidSignature:
            return False
        # One assignment: a thread that reads meanwhile sees the roots before or after it.
        self._known = (found, *self._known[: _REMEMBERED_ROOTS - 1])
        return True


def _leaf(manifest: bytes) -> bytes:
    return hashlib.sha256(b"\0" + hashlib.sha256(manifest).digest()).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _tree(leaves: list[bytes]) -> list[list[bytes]]:
    """Every level, from the leaves to the root."""
    width = 1 << (len(leaves) - 1).bit_length()
    levels = [leaves + [_NO_LEAF] * (width - len(leaves))]
    while len(below := levels[-1]) > 1:
        levels.append([_node(below[at], below[at + 1]) for at in range(0, len(below), 2)])
    return levels


def _path(levels: list[list[bytes]], place: int) -> bytes:
    """The siblings from a leaf up to below the root."""
    return b"".join(level[place >> height ^ 1] for height, level in enumerate(levels[:-1]))
