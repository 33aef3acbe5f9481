"""Judging a TPM quote (TPM 2.0 Library, part 3, 18.4): every check, each by name.

Hosts' quotes select PCR 0–7 and vTPMs' quotes PCR 1–7. The paper (section 4.1) speaks of 1–7; a
host's selection is a superset, because PCR 0 holds the measurement of the firmware itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Mapping

from nova_trusted_clone.core.attest import tpm_structs
from nova_trusted_clone.core.attest.tpm_structs import AttestationKey, PcrSelection
from nova_trusted_clone.core.attest.verdict import Verdict, show
from nova_trusted_clone.core.errors import MalformedInput

HOST_PCRS = tuple(range(8))
VTPM_PCRS = tuple(range(1, 8))


@dataclasses.dataclass(frozen=True)
class QuoteFacts:
    """What a good quote says besides what was asked: enough to see whether the machine restarted
    between two of them.

    :ivar clock: milliseconds that the TPM has been powered, over all boots
    :ivar safe: whether ``clock`` cannot have gone back through a loss of power
    """

    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware: int
    pcr_digest: bytes


def verify_quote(
    key: AttestationKey,
    attest: bytes,
    signature: bytes,
    *,
    qualifying_data: bytes,
    pcrs: Mapping[int, bytes],
) -> tuple[Verdict, QuoteFacts | None]:
    """Judge a quote by ``key``; facts come only with a verdict without failure.

    :param attest: the marshalled TPMS_ATTEST, exactly the signed bytes
    :param signature: the marshalled TPMT_SIGNATURE
    :param qualifying_data: what the quote has to be about, 32 bytes
    :param pcrs: the SHA-256 values that it has to vouch for; exactly these indexes, no other bank
    """
    verdict = _judge_signature(key, attest, signature)
    try:
        magic, kind = tpm_structs.attest_header(attest)
        verdict += Verdict.equal(
            "trusted-clone.quote.magic", hex(magic), hex(tpm_structs.GENERATED_VALUE)
        )
        verdict += Verdict.equal(
            "trusted-clone.quote.type", hex(kind), hex(tpm_structs.ST_ATTEST_QUOTE)
        )
        if kind != tpm_structs.ST_ATTEST_QUOTE:
            return verdict, None  # a GetTime or a Certify has another body
        quoted = tpm_structs.parse_attest(attest)
    except MalformedInput as error:
        return verdict + Verdict.of(
            "trusted-clone.quote.malformed", False, error, "a TPMS_ATTEST"
        ), None
    verdict += _judge_fields(key, quoted, qualifying_data, pcrs)
    if not verdict.ok:
        return verdict, None
    return verdict, QuoteFacts(
        quoted.clock,
        quoted.reset_count,
        quoted.restart_count,
        quoted.safe,
        quoted.firmware,
        quoted.pcr_digest,
    )


def _judge_signature(key: AttestationKey, attest: bytes, signature: bytes) -> Verdict:
    code, expected = "trusted-clone.quote.signature", f"one by the key named {key.name.hex()}"
    if len(attest) > tpm_structs.MAX_ATTEST_BYTES:
        return Verdict.of(code, False, f"an attestation of {len(attest)} bytes", expected)
    try:
        holds = tpm_structs.signature_holds(key, attest, signature)
    except MalformedInput as error:
        return Verdict.of(code, False, error, expected)
    return Verdict.of(code, holds, "a good signature" if holds else "a bad signature", expected)


def _judge_fields(
    key: AttestationKey,
    quoted: tpm_structs.Attest,
    qualifying_data: bytes,
    pcrs: Mapping[int, bytes],
) -> Verdict:
    selection = PcrSelection(tpm_structs.ALG_SHA256, tuple(sorted(pcrs)))
    fresh = len(qualifying_data) == 32 and hmac.compare_digest(quoted.extra_data, qualifying_data)
    verdict = Verdict.of(
        "trusted-clone.quote.stale", fresh, quoted.extra_data, f"{show(qualifying_data)}"
    )
    verdict += Verdict.equal(
        "trusted-clone.quote.signer", quoted.qualified_signer, key.qualified_name
    )
    verdict += Verdict.of(
        "trusted-clone.quote.selection",
        bool(pcrs) and quoted.selections == (selection,),
        _selections_text(quoted.selections),
        _selections_text((selection,)),
    )
    lengths_ok = all(len(value) == 32 for value in pcrs.values())
    digest = hashlib.sha256(b"".join(pcrs[index] for index in sorted(pcrs))).digest()
    return verdict + Verdict.of(
        "trusted-clone.quote.pcrs",
        lengths_ok and hmac.compare_digest(quoted.pcr_digest, digest),
        quoted.pcr_digest,
        digest,
    )


def _selections_text(selections: tuple[PcrSelection, ...]) -> str:
    banks = [
        f"bank {bank.algorithm:#x} PCR {','.join(map(str, bank.pcrs)) or 'none'}"
        for bank in selections
    ]
    return " and ".join(banks) or "no bank"


def require_same_boot(first: QuoteFacts, last: QuoteFacts) -> Verdict:
    """Judge whether the TPM ran on, without a reset, restart or new firmware, from ``first`` to
    ``last``.

    A machine that rebooted and replayed the same log shows the same AK and the same PCRs; only
    these counters tell.
    """
    verdict = Verdict()
    for field in ("reset_count", "restart_count", "firmware"):
        verdict += Verdict.equal(
            f"trusted-clone.boot.{field.replace('_', '-')}",
            getattr(last, field),
            getattr(first, field),
        )
    return verdict + Verdict.of(
        "trusted-clone.boot.clock",
        last.clock >= first.clock,
        last.clock,
        f"{first.clock} or later",
    )
