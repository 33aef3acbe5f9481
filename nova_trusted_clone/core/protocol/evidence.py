"""Evidence: every message of a clone, and a check of all of it that needs nothing else than core.

The tenant brings the operator's roots, the policy file and the nonce that it gave with its request.
The check makes every judgement that the two hosts made, by the same functions, from the raw
messages. What it cannot see is the time: certificates are judged at the order's time, and freshness
comes from the tenant's own nonce.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

from nova_trusted_clone.core.attest import strict_json
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import CoreError, MalformedInput
from nova_trusted_clone.core.protocol import checks, order, proofs, transcript
from nova_trusted_clone.core.protocol.messages import (
    Answer,
    Challenge,
    Confirmation,
    Final,
    NoVtpm,
    PageKey,
    Receipt,
    VtpmStatement,
)
from nova_trusted_clone.core.protocol.order import Order, SignedOrder

FORMAT = "trusted-clone-evidence/1"
# Two boot logs at their limit, in base64, and everything else beside them.
MAX_EVIDENCE_BYTES = 4 * 1024 * 1024
NAMES = ("challenge", "answer", "confirmation", "vtpm", "page_key", "final", "receipt")


@dataclasses.dataclass
class Collected:
    """The raw messages of a session, as they come."""

    challenge: bytes = b""
    answer: bytes = b""
    confirmation: bytes = b""
    vtpm: bytes = b""
    page_key: bytes = b""
    final: bytes = b""
    receipt: bytes = b""

    def to_evidence(self) -> dict[str, Any]:
        """Return the JSON-able evidence of a complete session."""
        raw = {name: getattr(self, name) for name in NAMES}
        return {
            "format": FORMAT,
            "clone": Conversation.read(raw).summary(),
            "messages": {name: base64.b64encode(data).decode() for name, data in raw.items()},
        }


@dataclasses.dataclass(frozen=True)
class Conversation:
    """All messages of a clone, decoded and not judged."""

    signed: SignedOrder
    order: Order
    challenge: Challenge
    answer: Answer
    confirmation: Confirmation
    vtpm_bytes: bytes
    vtpm: VtpmStatement | NoVtpm
    page_key: PageKey
    final: Final
    receipt: Receipt

    @classmethod
    def read(cls, raw: dict[str, bytes]) -> Conversation:
        """Decode all; raise :class:`MalformedInput` for the first that is not what it should be."""
        first = Challenge.decode(raw["challenge"])
        signed = SignedOrder.decode(first.order)
        ordered = signed.order()
        return cls(
            signed=signed,
            order=ordered,
            challenge=first,
            answer=Answer.decode(raw["answer"]),
            confirmation=Confirmation.decode(raw["confirmation"]),
            vtpm_bytes=raw["vtpm"],
            vtpm=checks.read_vtpm_statement(ordered, raw["vtpm"]),
            page_key=checks.read_page_key(raw["page_key"]),
            final=Final.decode(raw["final"]),
            receipt=Receipt.decode(raw["receipt"]),
        )

    def summary(self) -> dict[str, Any]:
        """Return what people want to know, all of it from the messages."""
        ordered, offered = self.order, self.page_key
        proof = checks.installed_proof(self.vtpm, self.receipt, ordered)
        ek = hashlib.sha256(proof.ek_chain[0]).hexdigest() if proof else None
        return {
            "clone_id": ordered.clone_id.hex(),
            "project_id": ordered.project_id,
            "user_id": ordered.user_id,
            "source_server": str(uuid.UUID(bytes=ordered.source_server)),
            "destination_server": str(uuid.UUID(bytes=ordered.destination_server)),
            "source_host": ordered.source_host,
            "destination_host": ordered.destination_host,
            "source_ak_name": ordered.source_ak_name.hex(),
            "destination_ak_name": ordered.destination_ak_name.hex(),
            "issued_at": ordered.issued_at,
            "expires_at": ordered.expires_at,
            "policy_sha256": ordered.policy_sha256.hex(),
            "tenant_nonce": ordered.tenant_nonce.hex(),
            "vtpm_mode": ordered.vtpm_mode,
            "memory_mode": ordered.memory_mode,
            "memory_bytes": ordered.memory_bytes,
            "disks": [[target, size] for target, size in ordered.disks],
            "clone_ek_certificate_sha256": ek,
            "freeze_id": offered.freeze_id.hex(),
            "page_key": offered.page_key.hex(),
            "page_key_vouched_by": offered.vouched_by,
            "regions": [list(row) for row in offered.regions],
            "pause_us": offered.pause_us,
            "manifest_root": self.final.manifest_root.hex(),
            "counts": dataclasses.asdict(self.final.counts),
        }


def read(data: bytes) -> Conversation:
    """Decode a file of evidence, not judged; raise :class:`MalformedInput` if it cannot be."""
    raw, _ = _parse(data)
    return Conversation.read(raw)


@dataclasses.dataclass(frozen=True)
class Part:
    """The checks of one message, or of the file.

    :ivar name: one of ``PARTS``
    """

    name: str
    verdict: Verdict


# ``file``: the nonce, and what is said in plain words beside what the messages say.
PARTS = ("file", "order", *NAMES)


def verify_evidence(
    data: bytes,
    anchors: TrustAnchors,
    policy: Policy,
    nonce: bytes,
    at_time: int | None = None,
) -> tuple[Verdict, dict[str, Any] | None]:
    """Judge a file of evidence; the summary comes only with a verdict without failure.

    :param nonce: the tenant's own, which the order has to carry
    :param at_time: when certificates have to be valid, in seconds since 1970; the order's issue
        unless given
    """
    parts, told = verify_parts(data, anchors, policy, nonce, at_time)
    return Verdict.joined(part.verdict for part in parts), told


def verify_parts(
    data: bytes,
    anchors: TrustAnchors,
    policy: Policy,
    nonce: bytes,
    at_time: int | None = None,
) -> tuple[tuple[Part, ...], dict[str, Any] | None]:
    """Judge a file of evidence, part by part: the checks are those of :func:`verify_evidence`."""
    try:
        raw, claimed = _parse(data)
        talk = Conversation.read(raw)
        verdict = Verdict.equal("trusted-clone.evidence.nonce", talk.order.tenant_nonce, nonce)
        parts = (Part("file", verdict), *judge_parts(talk, anchors, policy, at_time))
        told = talk.summary()
    except CoreError as error:
        return (Part("file", Verdict.malformed(error)),), None
    parts = (*parts, Part("file", _same_summary(told, claimed)))
    return parts, told if all(part.verdict.ok for part in parts) else None


def _same_summary(told: dict[str, Any], claimed: dict[str, Any]) -> Verdict:
    verdict = Verdict()
    for key in sorted({*told, *claimed}):
        verdict += Verdict.of(
            f"trusted-clone.evidence.summary.{key[:40]}",
            key in told and key in claimed and _same(claimed[key], told[key]),
            str(claimed.get(key, "nothing"))[:200],
            str(told.get(key, "no such entry"))[:200],
        )
    return verdict


def _same(one: Any, other: Any) -> bool:
    """Equality that tells 1 from true and from 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _parse(data: bytes) -> tuple[dict[str, bytes], dict[str, Any]]:
    file = strict_json.load(data, "evidence", MAX_EVIDENCE_BYTES)
    strict_json.keys(file, "evidence", ("format", "clone", "messages"))
    if file["format"] != FORMAT:
        raise MalformedInput(
            f"evidence.format: found {str(file['format'])[:64]!r}, expected {FORMAT!r}"
        )
    strict_json.keys(file["messages"], "evidence.messages", NAMES)
    if not isinstance(file["clone"], dict):
        raise MalformedInput("evidence.clone: expected an object")
    raw = {}
    for name in NAMES:
        where = f"evidence.messages.{name}"
        encoded = strict_json.text(file["messages"][name], where, MAX_EVIDENCE_BYTES)
        try:
            raw[name] = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedInput(f"{where}: expected base64") from error
    return raw, file["clone"]


def judge(
    talk: Conversation, anchors: TrustAnchors, policy: Policy, at_time: int | None = None
) -> Verdict:
    """Make every judgement of both sides. Stops where a failure leaves nothing for the next to
    stand on."""
    return Verdict.joined(part.verdict for part in judge_parts(talk, anchors, policy, at_time))


def judge_parts(
    talk: Conversation, anchors: TrustAnchors, policy: Policy, at_time: int | None = None
) -> Iterator[Part]:
    """Judge message after message, as :func:`judge` does."""
    now = talk.order.issued_at if at_time is None else at_time
    verdict, ordered = order.verify_signed(talk.signed, anchors, now)
    if ordered is None:
        yield Part("order", verdict)
        return
    yield Part("order", verdict + order.check_terms(ordered, policy))
    ground = proofs.Ground(talk.signed.order_bytes, ordered, anchors, policy, now)
    first, second = talk.challenge, talk.answer
    t1 = transcript.first(ground.order_bytes, ordered, first.nonce, first.channel_certificate)
    t2 = transcript.second(t1, second.nonce, second.channel_certificate)
    judged, source = checks.challenge(ground, first, t1)
    yield Part("challenge", judged)
    judged, destination = checks.answer(ground, second, t2)
    yield Part("answer", judged)
    if source is not None and destination is not None:
        yield from _judge_rest(talk, ground, t2, source, destination)


def _judge_rest(
    talk: Conversation,
    ground: proofs.Ground,
    t2: bytes,
    source: proofs.ProvenHost,
    destination: proofs.ProvenHost,
) -> Iterator[Part]:
    judged, confirmed = checks.confirmation(source, talk.confirmation, t2)
    yield Part("confirmation", judged)
    n3 = talk.confirmation.nonce
    judged, linked, clone_vtpm = checks.vtpm_statement(ground, destination, talk.vtpm, t2, n3)
    yield Part("vtpm", judged)
    judged, offering, source_vtpm = checks.page_key(
        ground, confirmed or source, clone_vtpm, talk.page_key, t2
    )
    yield Part("page_key", judged)
    judged, _ = checks.final(offering or confirmed or source, talk.final, t2, talk.page_key)
    yield Part("final", judged)
    judged, _ = checks.receipt(
        ground,
        linked or destination,
        talk.receipt,
        t2,
        talk.page_key,
        talk.final,
        talk.vtpm_bytes,
        (clone_vtpm, source_vtpm),
    )
    yield Part("receipt", judged)
