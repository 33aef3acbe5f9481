"""A quote is accepted only if everything about it is right; each forgery is refused by the check
that is meant for it."""

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from nova_trusted_clone.core.attest import tpm_structs
from nova_trusted_clone.core.attest.quote import (
    HOST_PCRS,
    QuoteFacts,
    require_same_boot,
    verify_quote,
)
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput
from tests.unit.core.software_tpm import AK_ATTRIBUTES, SoftwareTpm, ecc_public, key_from, sign

NONCE = hashlib.sha256(b"about this").digest()
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def tpm() -> SoftwareTpm:
    made = SoftwareTpm(key_from("ak"))
    made.extend([(pcr, hashlib.sha256(bytes([pcr])).digest()) for pcr in range(8)])
    return made


def judge(tpm: SoftwareTpm, attest: bytes, signature: bytes | None = None) -> Verdict:
    key = tpm_structs.parse_attestation_key(tpm.ak_public)
    signature = sign(tpm.key, attest) if signature is None else signature
    values = {index: tpm.pcrs[index] for index in HOST_PCRS}
    verdict, facts = verify_quote(key, attest, signature, qualifying_data=NONCE, pcrs=values)
    assert (facts is not None) == verdict.ok
    return verdict


def codes(verdict: Verdict) -> set[str]:
    return {check.code.removeprefix("trusted-clone.quote.") for check in verdict.failures}


def test_an_honest_quote_is_accepted_with_its_facts(tpm: SoftwareTpm) -> None:
    key = tpm_structs.parse_attestation_key(tpm.ak_public)
    attest, signature = tpm.quote(NONCE, HOST_PCRS)
    values = {index: tpm.pcrs[index] for index in HOST_PCRS}
    verdict, facts = verify_quote(key, attest, signature, qualifying_data=NONCE, pcrs=values)
    assert verdict.ok
    digest = hashlib.sha256(b"".join(values.values())).digest()
    assert facts == QuoteFacts(1001, 7, 2, True, 0x2024_0001, digest)


def test_an_rsa_key_quotes_too() -> None:
    tpm = SoftwareTpm(rsa.generate_private_key(65537, 2048))
    assert judge(tpm, tpm.attest(NONCE, HOST_PCRS)).ok


def test_one_check_of_each_kind_is_made(tpm: SoftwareTpm) -> None:
    made = [
        check.code.rpartition(".")[2] for check in judge(tpm, tpm.attest(NONCE, HOST_PCRS)).checks
    ]
    assert made == ["signature", "magic", "type", "stale", "signer", "selection", "pcrs"]


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"magic": 0xFE544347}, {"magic"}),
        ({"kind": 0x8019}, {"type"}),  # GetTime
        ({"kind": 0x8017}, {"type"}),  # Certify
        ({"signer": b"\0\x0b" + bytes(32)}, {"signer"}),
        ({"signer": b""}, {"signer"}),
        ({"banks": []}, {"selection"}),
        ({"banks": [(0x0B, [])]}, {"selection"}),  # what an inactive bank comes back as
        ({"banks": [(0x04, HOST_PCRS)]}, {"selection"}),
        ({"banks": [(0x0B, HOST_PCRS), (0x04, [1])]}, {"selection"}),
        ({"banks": [(0x0B, [*HOST_PCRS, 16])]}, {"selection"}),
        ({"banks": [(0x0B, range(1, 8))]}, {"selection"}),
        ({"banks": [(0x0B, [16])]}, {"selection"}),  # PCR 16 replayed to look like PCR 1
        ({"digest": bytes(32)}, {"pcrs"}),
        ({"digest": b""}, {"pcrs"}),
        ({"tail": b"\0"}, {"malformed"}),
    ],
)
def test_a_wrong_field_is_refused_although_it_is_signed(
    tpm: SoftwareTpm, changes: dict[str, object], failed: set[str]
) -> None:
    assert codes(judge(tpm, tpm.attest(NONCE, HOST_PCRS, **changes))) == failed  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [b"", bytes(32), NONCE + b"\0", NONCE[:31]])
def test_a_replayed_quote_is_stale(tpm: SoftwareTpm, other: bytes) -> None:
    assert codes(judge(tpm, tpm.attest(other, HOST_PCRS))) == {"stale"}


def test_every_failure_is_reported_not_only_the_first(tpm: SoftwareTpm) -> None:
    attest = tpm.attest(bytes(32), [1], magic=1, signer=b"x")
    other = sign(key_from("another"), attest)
    assert codes(judge(tpm, attest, other)) == {
        "signature", "magic", "stale", "signer", "selection", "pcrs",
    }  # fmt: skip


def test_a_changed_pcr_is_refused(tpm: SoftwareTpm) -> None:
    attest, signature = tpm.quote(NONCE, HOST_PCRS)
    tpm.pcrs[7] = bytes(32)
    assert codes(judge(tpm, attest, signature)) == {"pcrs"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: b"",
        lambda s: s + b"\0",
        lambda s: s[:-1],
        lambda s: struct.pack(">HH", 0x14, 0x0B) + s[4:],  # RSASSA, from an ECC key
        lambda s: struct.pack(">HH", 0x18, 0x04) + s[4:],  # SHA-1
        lambda s: s[:4] + b"\xff\xff" + s[6:],
        lambda s: s[:6] + bytes(32) + s[38:],
        lambda s: s[:40] + bytes([s[40] ^ 1]) + s[41:],
    ],
)
def test_a_spoiled_signature_is_refused(tpm: SoftwareTpm, spoil: object) -> None:
    attest, signature = tpm.quote(NONCE, HOST_PCRS)
    assert codes(judge(tpm, attest, spoil(signature))) == {"signature"}  # type: ignore[operator]


def test_the_twin_of_a_malleable_signature_is_the_same_quote(tpm: SoftwareTpm) -> None:
    """Known and harmless as long as nobody uses signature bytes as an identity: sessions use
    nonces."""
    attest, signature = tpm.quote(NONCE, HOST_PCRS)
    s = int.from_bytes(signature[40:72], "big")
    assert judge(tpm, attest, signature[:40] + (P256_ORDER - s).to_bytes(32, "big")).ok


@pytest.mark.parametrize("selected", [{}, {1: b"short"}])
def test_a_policy_that_selects_nothing_accepts_nothing(
    tpm: SoftwareTpm, selected: dict[int, bytes]
) -> None:
    key = tpm_structs.parse_attestation_key(tpm.ak_public)
    attest = tpm.attest(NONCE, sorted(selected), banks=[(0x0B, sorted(selected))])
    verdict, facts = verify_quote(
        key, attest, sign(tpm.key, attest), qualifying_data=NONCE, pcrs=selected
    )
    assert facts is None
    assert not verdict.ok


@pytest.mark.parametrize("missing", [0x2, 0x10, 0x20, 0x10000, 0x40000])
def test_a_key_that_could_forge_quotes_is_no_attestation_key(missing: int) -> None:
    with pytest.raises(MalformedInput, match="restricted signing key") as caught:
        tpm_structs.parse_attestation_key(
            ecc_public(key_from("ak").public_key(), AK_ATTRIBUTES & ~missing)
        )
    assert caught.value.code == "trusted-clone.key.attributes"


@pytest.mark.parametrize("extra", [0x20000, 0x800, 0x4, 0x80000])
def test_a_key_that_does_more_is_no_attestation_key(extra: int) -> None:
    with pytest.raises(MalformedInput):
        tpm_structs.parse_attestation_key(
            ecc_public(key_from("ak").public_key(), AK_ATTRIBUTES | extra)
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"name_alg": 0x04},
        {"symmetric": 0x06},
        {"scheme": 0x1A},  # ECDAA
        {"scheme_hash": 0x04},
        {"curve": 4},
    ],
)
def test_another_algorithm_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(MalformedInput) as caught:
        tpm_structs.parse_attestation_key(ecc_public(key_from("ak").public_key(), **changes))
    assert caught.value.code == "trusted-clone.key.algorithm"


def test_a_point_off_the_curve_and_trailing_bytes_are_refused() -> None:
    good = ecc_public(key_from("ak").public_key())
    with pytest.raises(MalformedInput, match="curve"):
        tpm_structs.parse_attestation_key(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(MalformedInput, match="follow"):
        tpm_structs.parse_attestation_key(good + b"\0")


FACTS = QuoteFacts(100, 7, 2, True, 1, bytes(32))


@pytest.mark.parametrize(
    ("last", "failed"),
    [
        (QuoteFacts(100, 7, 2, True, 1, bytes(32)), []),
        (QuoteFacts(101, 8, 2, True, 1, bytes(32)), ["reset-count"]),
        (QuoteFacts(101, 7, 3, True, 1, bytes(32)), ["restart-count"]),
        (QuoteFacts(101, 7, 2, True, 2, bytes(32)), ["firmware"]),
        (QuoteFacts(99, 7, 2, True, 1, bytes(32)), ["clock"]),
        (QuoteFacts(9, 8, 0, True, 1, bytes(32)), ["reset-count", "restart-count", "clock"]),
    ],
)
def test_a_restart_between_two_quotes_is_seen(last: QuoteFacts, failed: list[str]) -> None:
    verdict = require_same_boot(FACTS, last)
    assert [check.code.removeprefix("trusted-clone.boot.") for check in verdict.failures] == failed


def test_no_check_at_all_is_no_trust() -> None:
    assert not Verdict().ok
