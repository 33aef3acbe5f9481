"""Whatever bytes come, only a CoreError comes out of the protocol, and nothing mutated is
believed."""

from __future__ import annotations

import base64
import json
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol import actions, events, messages
from nova_trusted_clone.core.protocol.cborscan import scan
from nova_trusted_clone.core.protocol.evidence import NAMES, verify_evidence
from nova_trusted_clone.core.protocol.order import Order, SignedOrder
from nova_trusted_clone.core.protocol.wire import Message
from tests.fuzz.mutation import PLANS, Plan, apply, mutated
from tests.unit.core.world import NOW, Exchange, World, digest

WORLD = World()
EXCHANGE = Exchange(WORLD).run()
EVIDENCE = json.dumps(EXCHANGE.actions("source", actions.Completed)[0].evidence).encode()
QUIET = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

SAMPLES: list[tuple[type[Message], bytes]] = [
    (messages.Challenge, EXCHANGE.messages["challenge"]),
    (messages.Answer, EXCHANGE.messages["answer"]),
    (messages.Confirmation, EXCHANGE.messages["confirmation"]),
    (messages.VtpmStatement, EXCHANGE.messages["vtpm-statement"]),
    (messages.PageKeyByVtpm, EXCHANGE.messages["page-key-by-vtpm"]),
    (messages.Accepted, EXCHANGE.messages["accepted"]),
    (messages.Final, EXCHANGE.messages["final"]),
    (messages.Receipt, EXCHANGE.messages["receipt"]),
    (SignedOrder, WORLD.signed.encode()),
    (Order, WORLD.signed.order_bytes),
]


@pytest.mark.parametrize(("kind", "good"), SAMPLES)
@QUIET
@given(data=st.data())
def test_a_mutated_message_is_refused_or_has_one_form(
    kind: type[Message], good: bytes, data: st.DataObject
) -> None:
    found = data.draw(mutated(good))
    try:
        message = kind.decode(found)
    except CoreError:
        return
    assert message.encode() == found


CBOR = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
    ),
    max_leaves=10,
)


@QUIET
@given(key=st.sampled_from(sorted(Order.table())) | st.text(max_size=5), value=CBOR)
def test_any_cbor_in_a_fields_place(key: str, value: Any) -> None:
    plain = {**cbor2.loads(WORLD.signed.order_bytes), key: value}
    data = cbor2.dumps(plain, canonical=True)
    try:
        order = Order.decode(data)
    except CoreError:
        return
    assert order.encode() == data


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=64))
def test_the_scan_lets_nothing_through_that_the_library_chokes_on(data: bytes) -> None:
    try:
        scan(data, "fuzz")
    except CoreError:
        return
    try:
        cbor2.loads(data)
    except cbor2.CBORDecodeError as error:
        # Bad text and odd keys are for the library to find; lengths and kinds never are.
        assert "text string" in str(error) or "hash" in str(error)


@QUIET
@given(found=mutated(WORLD.signed.encode()))
def test_no_mutated_order_starts_a_session(found: bytes) -> None:
    if found == WORLD.signed.encode():
        return
    try:
        signed = SignedOrder.decode(found)
        session = WORLD.source(signed_order=signed)
        (told,) = session.handle(events.Start(NOW, digest("seed")))
    except CoreError:
        return
    assert isinstance(told, actions.Refused)


@pytest.mark.parametrize("name", ["challenge", "confirmation", "page-key-by-vtpm", "final"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=PLANS)
def test_a_destination_refuses_every_mutated_message(name: str, plan: Plan) -> None:
    refused_when_tampered(name, "destination", plan)


@pytest.mark.parametrize("name", ["answer", "vtpm-statement", "accepted", "receipt"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=PLANS)
def test_a_source_refuses_every_mutated_message(name: str, plan: Plan) -> None:
    refused_when_tampered(name, "source", plan)


def refused_when_tampered(name: str, side: str, plan: Plan) -> None:
    spoiled = []

    def tamper(found: str, good: bytes) -> bytes:
        if found != name:
            return good
        spoiled.append(apply(plan, good))
        return spoiled[-1] if spoiled[-1] != good else good[:-1]

    exchange = Exchange(World(), tamper)
    for step in (exchange.start, exchange.freeze, exchange.transfer, exchange.finish):
        step()
        if exchange.actions(side, actions.Refused):
            return
    raise AssertionError(f"a mutated {name} was taken: {spoiled[-1].hex()}")


@QUIET
@given(data=mutated(EVIDENCE))
def test_mutated_evidence_never_raises_and_never_convinces(data: bytes) -> None:
    verdict, summary = verify_evidence(
        data, WORLD.authorities.anchors, WORLD.policy, WORLD.order.tenant_nonce
    )
    if json_of(data) != json.loads(EVIDENCE):
        assert summary is None
        assert not verdict.ok


def json_of(data: bytes) -> Any:
    """The value, or None; white space within is no change."""
    try:
        return json.loads(data)
    except ValueError:
        return None


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_evidence_with_a_mutated_message_never_convinces(name: str, data: st.DataObject) -> None:
    evidence = json.loads(EVIDENCE)
    good = base64.b64decode(evidence["messages"][name])
    found = data.draw(mutated(good))
    evidence["messages"][name] = base64.b64encode(found).decode()
    verdict, summary = verify_evidence(
        json.dumps(evidence).encode(),
        WORLD.authorities.anchors,
        WORLD.policy,
        WORLD.order.tenant_nonce,
    )
    assert (summary is not None) == (found == good)
    assert verdict.ok == (found == good)
