"""Exchanges that were recorded once and must stay readable, byte for byte."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.protocol import messages, transcript
from nova_trusted_clone.core.protocol.evidence import verify_evidence
from nova_trusted_clone.core.protocol.order import Order, SignedOrder
from nova_trusted_clone.core.protocol.wire import Message, decode
from tests.vectors.generate import exchange, transcript_of

VECTORS = pathlib.Path(__file__).parents[3] / "vectors"
MODES = ("new", "derive", "none")
KINDS: dict[str, tuple[type[Message], ...]] = {
    "challenge": (messages.Challenge,),
    "answer": (messages.Answer,),
    "confirmation": (messages.Confirmation,),
    "vtpm": (messages.VtpmStatement, messages.NoVtpm),
    "page_key": (messages.PageKeyByVtpm, messages.PageKeyByHost),
    "final": (messages.Final,),
    "receipt": (messages.Receipt,),
}


@pytest.fixture(params=MODES)
def vector(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / f"exchange-1-{request.param}.json").read_text())
    return loaded


def raw(vector: dict[str, Any]) -> dict[str, bytes]:
    return {name: base64.b64decode(data) for name, data in vector["evidence"]["messages"].items()}


def test_every_recorded_message_decodes_and_encodes_to_the_same_bytes(
    vector: dict[str, Any],
) -> None:
    for name, data in raw(vector).items():
        assert decode(KINDS[name], data).encode() == data
    accepted = bytes.fromhex(vector["accepted"])
    assert messages.Accepted.decode(accepted).encode() == accepted


def test_the_recorded_order_decodes_and_encodes_to_the_same_bytes(vector: dict[str, Any]) -> None:
    order_bytes = bytes.fromhex(vector["order"])
    assert Order.decode(order_bytes).encode() == order_bytes
    challenge = messages.Challenge.decode(raw(vector)["challenge"])
    assert SignedOrder.decode(challenge.order).order_bytes == order_bytes
    assert SignedOrder.decode(challenge.order).encode() == challenge.order


def test_the_recorded_transcript_comes_out_again(vector: dict[str, Any]) -> None:
    assert transcript_of(bytes.fromhex(vector["order"]), raw(vector)) == vector["transcript"]


def test_the_recorded_evidence_still_holds(vector: dict[str, Any]) -> None:
    verdict, summary = verify_evidence(
        json.dumps(vector["evidence"]).encode(),
        TrustAnchors.from_pem(vector["anchors"].encode()),
        Policy.parse(vector["policy"].encode()),
        bytes.fromhex(vector["tenant_nonce"]),
    )
    assert verdict.ok, str(verdict)
    assert summary == vector["evidence"]["clone"]


@pytest.mark.parametrize("mode", MODES)
def test_todays_code_says_the_same_bytes_but_for_signatures(mode: str) -> None:
    recorded = json.loads((VECTORS / f"exchange-1-{mode}.json").read_text())
    made = exchange(mode)
    assert made.world.order.encode().hex() == recorded["order"]
    assert made.world.policy_json.decode() == recorded["policy"]


def test_one_digest_by_hand() -> None:
    """SHA-256 of the CBOR list ["trusted-clone/1/answer", h'00'*32, SHA-256 of the log]."""
    label = b"trusted-clone/1/answer"
    log = hashlib.sha256(b"log").digest()
    by_hand = (
        b"\x83" + bytes([0x60 + len(label)]) + label + b"\x58\x20" + bytes(32) + b"\x58\x20" + log
    )
    assert transcript.answer(bytes(32), b"log") == hashlib.sha256(by_hand).digest()


def test_every_quote_has_a_label_of_its_own() -> None:
    """With one label for all, a quote of one message stands for another."""
    b, order_counts = bytes(32), messages.Counts(1, 1, 0, 1)
    data = [
        transcript.challenge(b, b),
        transcript.answer(b, b),
        transcript.confirmation(b, b),
        transcript.vtpm_link(b, b, b, "new", b, b),
        transcript.vtpm(b, b, b),
        transcript.no_vtpm(b, b, b),
        transcript.source_vtpm_link(b, b, b, b, b),
        transcript.page_key("vtpm", b, b, b, (), 0),
        transcript.page_key("host", b, b, b, (), 0),
        transcript.installed_link(b, b, b, b, b),
        transcript.installed_vtpm(b, b, b),
        transcript.final(b, b, b, order_counts),
        transcript.receipt(b, b, b, order_counts, b),
    ]
    assert len(set(data)) == len(data)


def test_every_field_of_the_order_is_in_the_first_datum() -> None:
    base = exchange("none").world.order
    first = transcript.first(base.encode(), base, bytes(32), b"c")
    for field in dataclasses.fields(base):
        value = getattr(base, field.name)
        if field.name == "version":
            continue  # there is one
        changes: dict[type, Callable[[Any], Any]] = {
            bytes: lambda v: bytes(len(v)),
            int: lambda v: v + 1,
            tuple: lambda v: (("vdb", 1),),
            str: lambda v: {"none": "new", "lazy": "eager"}.get(v, "other"),
        }
        other = changes[type(value)](value)
        changed = dataclasses.replace(base, **{field.name: other})
        assert transcript.first(changed.encode(), changed, bytes(32), b"c") != first, field.name
