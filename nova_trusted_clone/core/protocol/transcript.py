"""What each quote is about.

Every datum is SHA-256 over the deterministic CBOR of a list that starts with the datum's own label:
injective, and never equal for two messages or directions. The fields are those without which a
model of the protocol loses a property: without the host and clone ids (they are in the order) the
agreement fails, without the channel's certificates the secrecy, without nonces everything; with one
label for all messages, reflection works.

* t1 = (version, order, source and destination host, both AK names, n1, X)
* t2 = (t1, n2, Y)

n1 and n2 are nonces of the source's and the destination's TPM, n3 the source's second one. X and Y
are the SHA-256 of the ephemeral certificates of the data channel's two ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cbor2

if TYPE_CHECKING:
    from nova_trusted_clone.core.protocol.messages import Counts
    from nova_trusted_clone.core.protocol.order import Order

VERSION = 1
PREFIX = f"trusted-clone/{VERSION}/"

Field = bytes | int | str | Sequence["Field"]


def digest(name: str, *fields: Field) -> bytes:
    """Return the 32 bytes that stand for ``fields`` under the label ``name``."""
    return hashlib.sha256(cbor2.dumps([PREFIX + name, *fields], canonical=True)).digest()


def nonces(seed: bytes) -> tuple[bytes, bytes]:
    """Return the source's n1 and n3, both from 32 fresh bytes of its TPM.

    n3 stays unknown to others until the source sends it, although n1 is known: SHA-256 hides the
    seed.
    """
    return digest("n1", seed), digest("n3", seed)


def first(order_bytes: bytes, order: Order, nonce: bytes, source_certificate: bytes) -> bytes:
    """Return t1."""
    return digest(
        "t1",
        VERSION,
        hashlib.sha256(order_bytes).digest(),
        order.source_host,
        order.destination_host,
        order.source_ak_name,
        order.destination_ak_name,
        nonce,
        hashlib.sha256(source_certificate).digest(),
    )


def second(t1: bytes, nonce: bytes, destination_certificate: bytes) -> bytes:
    """Return t2."""
    return digest("t2", t1, nonce, hashlib.sha256(destination_certificate).digest())


def challenge(t1: bytes, event_log: bytes) -> bytes:
    """Message 1: the source's host is there, for this order and channel.

    The boot log is covered too: PCRs vouch for its digests alone, not for what it says of them.
    """
    return digest("challenge", t1, hashlib.sha256(event_log).digest())


def answer(t2: bytes, event_log: bytes) -> bytes:
    """Message 2: so is the destination's host, for this very challenge; and its boot log."""
    return digest("answer", t2, hashlib.sha256(event_log).digest())


def confirmation(t2: bytes, n3: bytes) -> bytes:
    """Message 3: the source is live, and not replayed."""
    return digest("confirmation", t2, n3)


def vtpm_link(
    t2: bytes, n3: bytes, clone_id: bytes, mode: str, ak_name: bytes, ek_certificate: bytes
) -> bytes:
    """Message 4, by the destination host's AK: this vTPM is the one that was made for this
    clone."""
    ek = hashlib.sha256(ek_certificate).digest()
    return digest("vtpm-link", t2, n3, clone_id, mode, ak_name, ek)


def vtpm(t2: bytes, n3: bytes, clone_id: bytes) -> bytes:
    """Message 4, by the vTPM's AK: the clone's vTPM is live."""
    return digest("vtpm", t2, n3, clone_id)


def no_vtpm(t2: bytes, n3: bytes, clone_id: bytes) -> bytes:
    """Message 4 by the destination host's AK, for a clone without a vTPM."""
    return digest("no-vtpm", t2, n3, clone_id)


def source_vtpm_link(
    t2: bytes, freeze_id: bytes, page_key: bytes, ak_name: bytes, ek_certificate: bytes
) -> bytes:
    """Message 5, by the source host's AK: this vTPM is the frozen server's."""
    ek = hashlib.sha256(ek_certificate).digest()
    return digest("source-vtpm-link", t2, freeze_id, page_key, ak_name, ek)


def page_key(
    voucher: str, t2: bytes, freeze_id: bytes, key: bytes, regions: Sequence[Field], pause_us: int
) -> bytes:
    """Message 5, by ``voucher``, the source's ``vtpm`` or ``host``: this key signs the frozen
    server's pages."""
    table = digest("regions", [list(row) for row in regions])  # type: ignore[arg-type]
    return digest(f"page-key-by-{voucher}", t2, freeze_id, key, table, pause_us)


def installed_link(
    t2: bytes, freeze_id: bytes, clone_id: bytes, ak_name: bytes, ek_certificate: bytes
) -> bytes:
    """In the receipt, by the destination host's AK: this derived vTPM is the one that the clone
    runs with."""
    ek = hashlib.sha256(ek_certificate).digest()
    return digest("installed-vtpm-link", t2, freeze_id, clone_id, ak_name, ek)


def installed_vtpm(t2: bytes, freeze_id: bytes, clone_id: bytes) -> bytes:
    """In the receipt, by the derived vTPM's AK: it is live."""
    return digest("installed-vtpm", t2, freeze_id, clone_id)


def final(t2: bytes, freeze_id: bytes, root: bytes, counts: Counts) -> bytes:
    """The last statement of the source: all that was sent."""
    return digest("final", t2, freeze_id, root, counts.row())


def receipt(t2: bytes, freeze_id: bytes, root: bytes, counts: Counts, installed: bytes) -> bytes:
    """The last statement of the destination: the same was received, for a clone with this vTPM."""
    return digest("receipt", t2, freeze_id, root, counts.row(), hashlib.sha256(installed).digest())
