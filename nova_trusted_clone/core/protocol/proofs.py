"""Hosts and vTPMs that proved themselves: what the checks of all messages are built of.

A chain of proven values carries the last quote's counters on, so that a restart between any two
quotes of a host is seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from cryptography.hazmat.primitives import serialization

from nova_trusted_clone.core.attest import certchain, certificate, eventlog, quote, tpm_structs
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol.messages import Answer, Challenge, SignedQuote, VtpmProof
from nova_trusted_clone.core.protocol.order import Order


@dataclasses.dataclass(frozen=True)
class Ground:
    """What a session's judgements stand on; ``order`` has been verified. ``now`` is in seconds
    since 1970."""

    order_bytes: bytes
    order: Order
    anchors: TrustAnchors
    policy: Policy
    now: int


@dataclasses.dataclass(frozen=True)
class ProvenHost:
    """A host that proved itself; ``facts`` are of its last quote."""

    host_id: str
    key: tpm_structs.AttestationKey
    pcrs: Mapping[int, bytes]
    facts: quote.QuoteFacts


@dataclasses.dataclass(frozen=True)
class ProvenVtpm:
    """A vTPM that its host linked to this clone."""

    ak_name: bytes
    ek_certificate: bytes
    ek_public: bytes
    pcrs: Mapping[int, bytes]


def introduced_host(
    ground: Ground, message: Challenge | Answer, host_id: str, ak_name: bytes, datum: bytes
) -> tuple[Verdict, ProvenHost | None]:
    verdict, key = _host_key(ground, message.ak_chain, message.ak_public, host_id, ak_name)
    try:
        values = eventlog.replay(eventlog.parse(message.event_log))
    except MalformedInput as error:
        return verdict + Verdict.malformed(error), None
    pcrs = {index: values[index] for index in quote.HOST_PCRS}
    verdict += ground.policy.check_host(host_id, pcrs)
    if key is None:
        return verdict, None
    judged, facts = quote.verify_quote(
        key,
        message.quote.attest,
        message.quote.signature,
        qualifying_data=datum,
        pcrs=pcrs,
    )
    verdict += judged
    if facts is None or not verdict.ok:
        return verdict, None
    return verdict, ProvenHost(host_id, key, pcrs, facts)


def _host_key(
    ground: Ground, chain: Sequence[bytes], ak_public: bytes, host_id: str, ak_name: bytes
) -> tuple[Verdict, tpm_structs.AttestationKey | None]:
    """Judge whether the AK is the one that the attestation authority certified for the host of the
    order."""
    verdict = certchain.verify_chain(
        chain[0], chain[1:], ground.anchors, Role.ATTESTATION, ground.now
    )
    try:
        certified_host, certified_name = certchain.ak_certificate_identity(chain[0])
        certified_key = _spki(certificate.read(chain[0], "AK certificate").public_key)
        key = tpm_structs.parse_attestation_key(ak_public)
    except MalformedInput as error:
        return verdict + Verdict.malformed(error), None
    verdict += Verdict.equal("trusted-clone.host.id", certified_host, host_id)
    verdict += Verdict.equal("trusted-clone.host.ak-certified", certified_name, key.name)
    verdict += Verdict.equal("trusted-clone.host.ak-ordered", key.name, ak_name)
    verdict += Verdict.equal("trusted-clone.host.ak-key", _spki(key.public_key), certified_key)
    return verdict, key


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def host_again(
    host: ProvenHost, made: SignedQuote, datum: bytes
) -> tuple[Verdict, ProvenHost | None]:
    """Judge a further quote of a proven host: about ``datum``, the same PCRs, the same boot."""
    verdict, facts = quote.verify_quote(
        host.key, made.attest, made.signature, qualifying_data=datum, pcrs=host.pcrs
    )
    if facts is None:
        return verdict, None
    verdict += quote.require_same_boot(host.facts, facts)
    return verdict, dataclasses.replace(host, facts=facts) if verdict.ok else None


Linked = tuple[Verdict, ProvenHost | None, ProvenVtpm | None]


def linked_vtpm(
    ground: Ground,
    host: ProvenHost,
    proof: VtpmProof,
    link_datum: Callable[[bytes, bytes], bytes],
    quote_datum: bytes,
) -> Linked:
    """Judge a vTPM: its EK by the host's own authority, the host's link to its AK, and its quote.

    The link is needed besides the certificate: tenants own genuine, certified vTPMs on good hosts,
    which quote anything.
    """
    leaf = proof.ek_chain[0]
    verdict = certified_vtpm(proof.ek_chain, host.host_id, ground.anchors, ground.now)
    try:
        key = tpm_structs.parse_attestation_key(proof.ak_public)
        ek_public = _spki(certificate.read(leaf, "EK certificate").public_key)
    except MalformedInput as error:
        return verdict + Verdict.malformed(error), None, None
    verdict += Verdict.of(
        "trusted-clone.vtpm.own-key",
        key.name != host.key.name,
        key.name,
        "another AK than the host's",
    )
    linked, after = host_again(host, proof.link, link_datum(key.name, leaf))
    quoted, _ = quote.verify_quote(
        key,
        proof.quote.attest,
        proof.quote.signature,
        qualifying_data=quote_datum,
        pcrs=proof.pcr_values,
    )
    verdict += linked + quoted
    if not verdict.ok:
        return verdict, None, None
    return verdict, after, ProvenVtpm(key.name, leaf, ek_public, proof.pcr_values)


def certified_vtpm(
    ek_chain: Sequence[bytes], host_id: str, anchors: TrustAnchors, now: int
) -> Verdict:
    """Judge whether a vTPM's EK is certified by the authority of ``host_id``.

    A source asks this of its own server's vTPM: one that came from elsewhere cannot vouch, and the
    host's AK does instead.
    """
    if not ek_chain:
        return Verdict.of("trusted-clone.vtpm.host", False, "no EK certificate", "one")
    verdict = certchain.verify_chain(ek_chain[0], ek_chain[1:], anchors, Role.VTPM, now)
    return verdict + _vtpm_authority(ek_chain, host_id)


def _vtpm_authority(chain: Sequence[bytes], host_id: str) -> Verdict:
    code, expected = (
        "trusted-clone.vtpm.host",
        f"an EK certified by the authority of {host_id}",
    )
    if len(chain) < 2:
        return Verdict.of(code, False, "an EK certificate without its host's authority", expected)
    try:
        found = certchain.host_of(chain[1], "vTPM authority")
    except MalformedInput as error:
        return Verdict.of(code, False, error, expected)
    return Verdict.of(code, found == host_id, f"one by that of {found}", expected)


def own_vtpm(proof: VtpmProof) -> ProvenVtpm:
    """Return a vTPM of this very host, which has nothing to prove to itself."""
    leaf = proof.ek_chain[0]
    return ProvenVtpm(
        tpm_structs.parse_attestation_key(proof.ak_public).name,
        leaf,
        _spki(certificate.read(leaf, "EK certificate").public_key),
        proof.pcr_values,
    )


def distinct(one: ProvenVtpm | None, other: ProvenVtpm | None) -> Verdict:
    """Judge that two vTPMs are two: neither AK nor EK is shared."""
    if one is None or other is None:
        return Verdict.of("trusted-clone.vtpm.identity", True, "at most one vTPM", "no shared one")
    return Verdict.of(
        "trusted-clone.vtpm.identity",
        one.ak_name != other.ak_name and one.ek_public != other.ek_public,
        f"AK {one.ak_name.hex()} beside {other.ak_name.hex()}",
        "two vTPMs that share neither AK nor EK",
    )
