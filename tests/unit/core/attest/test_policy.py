"""The policy file: nothing unknown, nothing doubtful, every difference named."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from nova_trusted_clone.core.attest.policy import Policy, learn
from nova_trusted_clone.core.errors import MalformedInput

VALUES = {index: hashlib.sha256(bytes([index])).digest() for index in range(8)}
LEARNED = learn(None, "compute-1", "r650", VALUES)


def changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(LEARNED), **changes}).encode()


def test_a_learned_policy_accepts_its_host_and_is_strict() -> None:
    policy = Policy.parse(LEARNED)
    assert policy.check_host("compute-1", VALUES).ok
    assert policy.sha256 == hashlib.sha256(LEARNED).digest()
    assert (
        policy.require_generation_id,
        policy.allow_without_vtpm,
        policy.allow_vtpm_derive,
        policy.max_order_seconds,
    ) == (True, False, False, 900)


def test_each_differing_pcr_is_named() -> None:
    values = VALUES | {2: bytes(32), 7: b"\1" * 32}
    verdict = Policy.parse(LEARNED).check_host("compute-1", values)
    assert [check.code for check in verdict.failures] == [
        "trusted-clone.policy.pcr-2",
        "trusted-clone.policy.pcr-7",
    ]
    assert "PCR 7 of compute-1 is 0101" in verdict.failures[1].found


def test_a_missing_value_and_an_unknown_host_are_refused() -> None:
    policy = Policy.parse(LEARNED)
    assert not policy.check_host("compute-1", {k: v for k, v in VALUES.items() if k}).ok
    verdict = policy.check_host("compute-2", VALUES)
    assert verdict.failures[0].code == "trusted-clone.policy.host"
    assert len(verdict.failures) == 9


def test_learning_adds_and_never_removes() -> None:
    more = learn(LEARNED, "compute-2", "r650", VALUES | {1: bytes(32)})
    policy = Policy.parse(more)
    assert policy.check_host("compute-1", VALUES).ok
    assert policy.check_host("compute-2", VALUES | {1: bytes(32)}).ok
    assert learn(more, "compute-2", "r650", VALUES) == more
    with pytest.raises(MalformedInput, match="of class 'r650'"):
        learn(more, "compute-2", "other", VALUES)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "an object"),
        (b"[" * 200_000, "not JSON"),
        (b'{"version": 1, "version": 1}', "twice"),
        (b'{"version": NaN}', "NaN"),
        (b"\xff{}", "not JSON"),
        (changed(surprise=1), "policy.surprise: unknown"),
        (changed(version=True), "policy.version"),
        (changed(version=2), "policy.version"),
        (changed(allow_without_vtpm=0), "policy.allow_without_vtpm"),
        (changed(hosts={"compute-1": "none"}), "policy.hosts.compute-1"),
        (changed(hosts={"../x": "r650"}), "host id"),
        (changed(hosts=[]), "policy.hosts"),
        (changed(max_order_seconds=0), "policy.max_order_seconds"),
        (changed(max_order_seconds=1.5), "policy.max_order_seconds"),
        (changed(host_classes={"r650": {"pcrs": {}}}), "pcrs.0: it is missing"),
        (
            changed(host_classes={"r650": {"pcrs": {str(i): [] for i in range(8)}}}),
            "pcrs.0: expected a list",
        ),
        (
            changed(host_classes={"r650": {"pcrs": {str(i): ["AA" * 32] for i in range(8)}}}),
            "lower-case",
        ),
        (
            changed(host_classes={"r650": {"pcrs": {str(i): ["00" * 32] for i in range(9)}}}),
            "unknown key",
        ),
    ],
)
def test_a_bad_policy_is_refused_with_its_place(data: bytes, said: str) -> None:
    with pytest.raises(MalformedInput, match=said):
        Policy.parse(data)
