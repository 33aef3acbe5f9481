"""The order: what the control plane wants cloned, signed, so that the message broker needs no
trust.

Both hosts check it, and use a clone id once. It names hosts and their AKs, servers, sizes, policy
and the tenant's nonce, and lives for minutes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from nova_trusted_clone.core.attest import certchain, certificate
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol.messages import Chain
from nova_trusted_clone.core.protocol.transcript import PREFIX, VERSION
from nova_trusted_clone.core.protocol.wire import Message
from nova_trusted_clone.core.protocol.wiretypes import Choice, Many, Octets, Row, Text, Uint

CLOCK_SKEW_S = 60  # how far the control plane's clock may run ahead of a host's
Uuid = Octets(16)
AkName = Octets(34)
HostId = Text(r"[a-z0-9](?:[a-z0-9-]|\.(?!\.))*", 63)
AccountId = Text("[A-Za-z0-9][A-Za-z0-9_.-]*", 64)
DiskRow = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Order(Message):
    """One clone.

    :ivar clone_id: used once
    :ivar freeze_group: clones of one group are made from one freeze
    :ivar disks: (target, size in bytes) of every disk
    :ivar vtpm_mode: ``new``, ``derive`` or ``none``
    :ivar memory_mode: ``lazy`` runs the clone at once, ``eager`` after everything was verified
    :ivar tenant_nonce: the tenant's own, by which it knows its evidence
    :ivar issued_at: seconds since 1970, as is ``expires_at``
    """

    LABEL: ClassVar[str] = PREFIX + "order"
    version: Annotated[int, Uint(VERSION, VERSION)]
    clone_id: Annotated[bytes, Uuid]
    freeze_group: Annotated[bytes, Uuid]
    project_id: Annotated[str, AccountId]
    user_id: Annotated[str, AccountId]
    source_server: Annotated[bytes, Uuid]
    destination_server: Annotated[bytes, Uuid]
    source_host: Annotated[str, HostId]
    destination_host: Annotated[str, HostId]
    source_ak_name: Annotated[bytes, AkName]
    destination_ak_name: Annotated[bytes, AkName]
    disks: Annotated[
        tuple[DiskRow, ...], Many(Row((Text("[a-z][a-z0-9]*", 16), Uint(1, 1 << 56))), 0, 64)
    ]
    memory_bytes: Annotated[int, Uint(1, 1 << 48)]
    policy_sha256: Annotated[bytes, Octets(32)]
    vtpm_mode: Annotated[str, Choice(("new", "derive", "none"))]
    memory_mode: Annotated[str, Choice(("lazy", "eager"))]
    tenant_nonce: Annotated[bytes, Octets(8, 64)]
    issued_at: Annotated[int, Uint(1)]
    expires_at: Annotated[int, Uint(1)]


@dataclasses.dataclass(frozen=True)
class SignedOrder(Message):
    """An order's bytes, the ECDSA P-256 signature over them, and the signer's chain without the
    root."""

    LABEL: ClassVar[str] = PREFIX + "signed-order"
    order_bytes: Annotated[bytes, Octets(1, 16384)]
    signature: Annotated[bytes, Octets(8, 72)]
    chain: Annotated[tuple[bytes, ...], Chain]

    def order(self) -> Order:
        """Return the order; it is to be believed only after :func:`verify_order`.

        :raises MalformedInput: if it is none
        """
        return Order.decode(self.order_bytes)


def sign_order(
    key: ec.EllipticCurvePrivateKey, chain: Sequence[bytes], order: Order
) -> SignedOrder:
    """Return ``order`` signed by ``key``, whose certificate is the first of ``chain``."""
    order_bytes = order.encode()
    signature = key.sign(order_bytes, ec.ECDSA(hashes.SHA256()))
    return SignedOrder(order_bytes, signature, tuple(chain))


def verify_order(
    signed: SignedOrder,
    anchors: TrustAnchors,
    policy: Policy,
    now: int,
    host_id: str,
    role: str,
) -> tuple[Verdict, Order | None]:
    """Judge an order on the host ``host_id``, which is its ``source`` or ``destination``.

    The order comes only with a verdict without failure.
    """
    verdict, order = verify_signed(signed, anchors, now)
    if order is None:
        return verdict, None
    verdict += check_terms(order, policy)
    verdict += check_time(order, now)
    verdict += Verdict.equal(
        f"trusted-clone.order.{role}-host",
        host_id,
        order.source_host if role == "source" else order.destination_host,
    )
    return verdict, order if verdict.ok else None


def verify_signed(
    signed: SignedOrder, anchors: TrustAnchors, now: int
) -> tuple[Verdict, Order | None]:
    """Judge who signed an order; it comes whenever it can be read, together with the verdict."""
    chain = certchain.verify_chain(signed.chain[0], signed.chain[1:], anchors, Role.CONTROL, now)
    verdict = chain + _judge_signature(signed)
    try:
        return verdict, signed.order()
    except MalformedInput as error:
        return verdict + Verdict.malformed(error), None


def _judge_signature(signed: SignedOrder) -> Verdict:
    code, expected = "trusted-clone.order.signature", "one by the chain's first certificate"
    try:
        key = certificate.read(signed.chain[0], "order signer").public_key
    except MalformedInput as error:
        return Verdict.of(code, False, error, expected)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return Verdict.of(code, False, "a signer whose key is not P-256", expected)
    try:
        key.verify(signed.signature, signed.order_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return Verdict.of(code, False, "a bad signature", expected)
    return Verdict.of(code, True, "a good signature", expected)


def check_terms(order: Order, policy: Policy) -> Verdict:
    """Judge what does not depend on time or place."""
    verdict = Verdict.equal("trusted-clone.order.policy", order.policy_sha256, policy.sha256)
    lifetime = order.expires_at - order.issued_at
    verdict += Verdict.of(
        "trusted-clone.order.lifetime",
        0 < lifetime <= policy.max_order_seconds,
        f"{lifetime} s",
        f"1–{policy.max_order_seconds} s",
    )
    verdict += Verdict.of(
        "trusted-clone.order.servers",
        order.source_server != order.destination_server,
        order.destination_server,
        "another server than the source",
    )
    targets = [target for target, _ in order.disks]
    verdict += Verdict.of(
        "trusted-clone.order.disks",
        len(set(targets)) == len(targets),
        ", ".join(targets) or "none",
        "each disk once",
    )
    allowed = {"new"}
    allowed |= {"none"} if policy.allow_without_vtpm else set()
    allowed |= {"derive"} if policy.allow_vtpm_derive else set()
    return verdict + Verdict.of(
        "trusted-clone.order.vtpm-mode",
        order.vtpm_mode in allowed,
        order.vtpm_mode,
        f"one that the policy allows: {', '.join(sorted(allowed))}",
    )


def check_time(order: Order, now: int) -> Verdict:
    """Judge whether an order is in force at ``now``, seconds since 1970."""
    verdict = Verdict.of(
        "trusted-clone.order.not-yet-valid",
        order.issued_at <= now + CLOCK_SKEW_S,
        f"issued at {order.issued_at}",
        f"not later than {now} (and {CLOCK_SKEW_S} s); compare the clocks",
    )
    return verdict + Verdict.of(
        "trusted-clone.order.expired",
        now < order.expires_at,
        f"expired at {order.expires_at}",
        f"later than {now}; order the clone anew",
    )
