"""Faults injected on purpose, to show that none of them gets through. Built in tests only: no option leads here.

Each changes what an honest exporter sends after it was signed, as a hostile network or a broken host would.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.leaf import LEAF_BYTES
from nova_trusted_clone.core.integrity.segment import SegmentManifest
from nova_trusted_clone.core.integrity.signed import sign_batch
from nova_trusted_clone.datapath.bulk import SegmentReply

Fault = Callable[[SegmentReply], SegmentReply]


def at(region: int, index: int, fault: Fault) -> Fault:
    """The fault at one place only."""

    def apply(reply: SegmentReply) -> SegmentReply:
        return fault(reply) if (reply.region, reply.index) == (region, index) else reply

    return apply


def flip(reply: SegmentReply) -> SegmentReply:
    """One bit in the middle is turned over."""
    data = bytearray(reply.data)
    data[len(data) // 2] ^= 1
    return dataclasses.replace(reply, data=data)


def truncate(reply: SegmentReply) -> SegmentReply:
    """The last leaf is missing."""
    return dataclasses.replace(reply, data=bytes(reply.data)[:-LEAF_BYTES])


def swap(reply: SegmentReply) -> SegmentReply:
    """The first two leaves stand in each other's place."""
    data = bytes(reply.data)
    first, second = data[:LEAF_BYTES], data[LEAF_BYTES : 2 * LEAF_BYTES]
    return dataclasses.replace(reply, data=second + first + data[2 * LEAF_BYTES :])


def flip_signature(reply: SegmentReply) -> SegmentReply:
    """One bit of the signature is turned over."""
    signature = bytearray(reply.signed.signature)
    signature[0] ^= 1
    signed = dataclasses.replace(reply.signed, signature=bytes(signature))
    return dataclasses.replace(reply, signed=signed)


class Move:
    """Every reply but the first carries the first one's content, genuinely signed, in another place."""

    def __init__(self) -> None:
        self._first: SegmentReply | None = None

    def __call__(self, reply: SegmentReply) -> SegmentReply:
        """Change a reply."""
        if self._first is None:
            self._first = dataclasses.replace(reply, data=bytes(reply.data))
            return reply
        return dataclasses.replace(reply, signed=self._first.signed, data=self._first.data)


def replay(page_key: Ed25519PrivateKey, freeze_id: bytes) -> Fault:
    """The content comes signed by the right key, but for another freeze."""
    return _resign(page_key, lambda manifest: dataclasses.replace(manifest, freeze_id=freeze_id))


def stale(page_key: Ed25519PrivateKey, epoch: int) -> Fault:
    """The content comes signed by the right key, but of another epoch."""
    return _resign(page_key, lambda manifest: dataclasses.replace(manifest, epoch=epoch))


def forge() -> Fault:
    """The content comes signed by a key that nobody vouched for."""
    return _resign(Ed25519PrivateKey.generate(), lambda manifest: manifest)


def _resign(
    page_key: Ed25519PrivateKey, change: Callable[[SegmentManifest], SegmentManifest]
) -> Fault:
    def apply(reply: SegmentReply) -> SegmentReply:
        manifest = change(SegmentManifest.decode(reply.signed.manifest))
        (signed,) = sign_batch([manifest.encode()], page_key)
        return dataclasses.replace(reply, signed=signed)

    return apply


def stall(seconds: float) -> Fault:
    """The reply takes its time."""

    def apply(reply: SegmentReply) -> SegmentReply:
        time.sleep(seconds)
        return reply

    return apply
