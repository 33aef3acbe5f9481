"""Evidence convinces who brings the roots, the policy and the nonce; anything changed in it is
named."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.protocol import actions, messages
from nova_trusted_clone.core.protocol.evidence import (
    NAMES,
    PARTS,
    read,
    verify_evidence,
    verify_parts,
)
from tests.unit.core.world import NOW, Authorities, Exchange, World

WORLD = World()
EXCHANGE = Exchange(WORLD).run()
EVIDENCE: dict[str, Any] = dict(EXCHANGE.actions("source", actions.Completed)[0].evidence)
NONCE = WORLD.order.tenant_nonce


def judge(evidence: dict[str, Any] | bytes, **changes: Any) -> Verdict:
    data = evidence if isinstance(evidence, bytes) else json.dumps(evidence).encode()
    parts: dict[str, Any] = {
        "anchors": WORLD.authorities.anchors,
        "policy": WORLD.policy,
        "nonce": NONCE,
    }
    verdict, summary = verify_evidence(data, **(parts | changes))
    assert (summary is not None) == verdict.ok
    return verdict


def codes(verdict: Verdict) -> set[str]:
    return {check.code.removeprefix("trusted-clone.") for check in verdict.failures}


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    evidence = copy.deepcopy(EVIDENCE)
    change(evidence)
    return evidence


def remade(name: str, kind: type[Any], **fields: Any) -> dict[str, Any]:
    """A message with other fields, and a summary that goes along."""

    def change(evidence: dict[str, Any]) -> None:
        message = kind.decode(base64.b64decode(evidence["messages"][name]))
        data = dataclasses.replace(message, **fields).encode()
        evidence["messages"][name] = base64.b64encode(data).decode()

    return changed(change)


def test_the_parts_are_the_whole_by_message() -> None:
    """Whoever shows the checks beside the host that they are about makes no other checks."""
    data = json.dumps(EVIDENCE).encode()
    parts, summary = verify_parts(data, WORLD.authorities.anchors, WORLD.policy, NONCE)
    assert {part.name for part in parts} == set(PARTS)
    assert Verdict.joined(part.verdict for part in parts) == judge(EVIDENCE)
    assert all(part.verdict.ok for part in parts)
    assert summary == read(data).summary()


def test_a_part_that_fails_is_the_message_that_was_changed() -> None:
    evidence = remade("receipt", messages.Receipt, manifest_root=bytes(32))
    parts, summary = verify_parts(
        json.dumps(evidence).encode(), WORLD.authorities.anchors, WORLD.policy, NONCE
    )
    assert {part.name for part in parts if not part.verdict.ok} == {"receipt"}
    assert summary is None


def test_honest_evidence_convinces() -> None:
    assert judge(EVIDENCE).ok


def test_years_later_it_still_does() -> None:
    assert judge(EVIDENCE, at_time=None).ok
    assert codes(judge(EVIDENCE, at_time=NOW + 10 * 365 * 86400)) == {"certificate.expired"}


def test_another_tenants_nonce_is_named() -> None:
    assert codes(judge(EVIDENCE, nonce=b"another nonce")) == {"evidence.nonce"}


def test_another_operators_roots_do_not_convince() -> None:
    verdict = judge(EVIDENCE, anchors=Authorities("foreign").anchors)
    assert {"certificate.anchor"} <= codes(verdict)


def test_another_policy_is_named() -> None:
    raw = json.loads(WORLD.policy_json)
    raw["host_classes"]["class-right"]["pcrs"]["3"] = ["00" * 32]
    verdict = judge(EVIDENCE, policy=Policy.parse(json.dumps(raw).encode()))
    assert codes(verdict) == {"order.policy", "policy.pcr-3"}


@pytest.mark.parametrize("key", sorted(EVIDENCE["clone"]))
def test_a_summary_that_says_otherwise_is_named(key: str) -> None:
    assert codes(judge(changed(lambda e: e["clone"].update({key: "x"})))) == {
        f"evidence.summary.{key}"
    }
    assert codes(judge(changed(lambda e: e["clone"].pop(key)))) == {f"evidence.summary.{key}"}


def test_a_summary_that_says_more_is_named() -> None:
    assert codes(judge(changed(lambda e: e["clone"].update(extra="all good")))) == {
        "evidence.summary.extra"
    }


def test_true_is_not_one() -> None:
    def lie(evidence: dict[str, Any]) -> None:
        evidence["clone"]["regions"][0][0] = True

    assert codes(judge(changed(lie))) == {"evidence.summary.regions"}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "challenge"])
def test_a_message_of_another_clone_is_named(name: str) -> None:
    """Same hosts, same servers, another clone id."""
    other = Exchange(World(clone_id=bytes(15) + b"x")).run()
    theirs = other.actions("source", actions.Completed)[0].evidence["messages"][name]
    verdict = judge(changed(lambda e: e["messages"].update({name: theirs})))
    assert "quote.stale" in codes(verdict)


@pytest.mark.parametrize(
    ("name", "kind", "fields", "failed"),
    [
        ("page_key", messages.PageKeyByVtpm, {"page_key": bytes(32)}, "quote.stale"),
        ("page_key", messages.PageKeyByVtpm, {"pause_us": 1}, "quote.stale"),
        ("final", messages.Final, {"manifest_root": bytes(32)}, "quote.stale"),
        ("receipt", messages.Receipt, {"manifest_root": bytes(32)}, "receipt.root"),
        ("confirmation", messages.Confirmation, {"nonce": bytes(32)}, "quote.stale"),
        ("answer", messages.Answer, {"event_log": WORLD.left.log}, "policy.pcr-1"),
        ("challenge", messages.Challenge, {"ak_chain": (WORLD.right.ak_cert,)}, "host.id"),
    ],
)
def test_a_changed_message_is_named(
    name: str, kind: type[Any], fields: dict[str, Any], failed: str
) -> None:
    assert failed in codes(judge(remade(name, kind, **fields)))


def test_a_reboot_in_between_is_named() -> None:
    world = World()
    exchange = Exchange(world)
    exchange.start()
    exchange.freeze()
    exchange.transfer()
    exchange.source_tpm.reboot()
    # A hostile destination that looks away: its judgement is not asked for by evidence.
    exchange.destination._source = dataclasses.replace(
        exchange.destination._source,  # type: ignore[type-var]
        facts=dataclasses.replace(exchange.destination._source.facts, reset_count=8),  # type: ignore[union-attr]
    )
    exchange.finish()
    evidence = dict(exchange.actions("source", actions.Completed)[0].evidence)
    verdict, summary = verify_evidence(
        json.dumps(evidence).encode(), world.authorities.anchors, world.policy, NONCE
    )
    assert summary is None
    assert codes(verdict) == {"boot.reset-count"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "evidence: not JSON"),
        (b"{}", "evidence.format: it is missing"),
        (bytes(5 << 20), "evidence: found"),
        (json.dumps(EVIDENCE | {"format": "x"}).encode(), "evidence.format"),
        (json.dumps(EVIDENCE | {"more": 1}).encode(), "evidence.more: unknown key"),
        (json.dumps(EVIDENCE | {"clone": []}).encode(), "evidence.clone"),
        (json.dumps(EVIDENCE | {"messages": {}}).encode(), "evidence.messages.challenge"),
        (
            json.dumps(
                EVIDENCE | {"messages": EVIDENCE["messages"] | {"final": "not base64!"}}
            ).encode(),
            "evidence.messages.final: expected base64",
        ),
        (
            json.dumps(EVIDENCE | {"messages": EVIDENCE["messages"] | {"final": ""}}).encode(),
            "final: it ends in the middle",
        ),
    ],
)
def test_a_file_that_is_no_evidence_says_where(data: bytes, said: str) -> None:
    (check,) = judge(data).failures
    assert said in check.found
