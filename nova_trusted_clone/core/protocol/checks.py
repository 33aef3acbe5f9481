"""What each message is judged by: pure functions that the source, the destination and evidence all
use.

Each returns a verdict and, only without a failure, what was proven. A chain of proven values
carries the last quote's counters on, so that a restart between any two quotes of a host is seen.
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
from nova_trusted_clone.core.protocol import transcript
from nova_trusted_clone.core.protocol.messages import (
    Answer,
    Challenge,
    Confirmation,
    Counts,
    DerivedVtpm,
    Final,
    NoVtpm,
    PageKey,
    PageKeyByHost,
    PageKeyByVtpm,
    Receipt,
    RegionRow,
    SignedQuote,
    VtpmProof,
    VtpmStatement,
)
from nova_trusted_clone.core.protocol.order import Order
from nova_trusted_clone.core.protocol.wire import decode

LEAF_BYTES, SEGMENT_BYTES = 4096, 1 << 20
# RAM blocks beside the guest's own memory: video memory, firmware, tables.
MAX_SMALL_BLOCK_BYTES = 256 << 20
REGION_KINDS = frozenset({"ram", "disk", "device", "domain", "vtpm"})


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


def challenge(ground: Ground, message: Challenge, t1: bytes) -> tuple[Verdict, ProvenHost | None]:
    """Judge message 1: the source's host."""
    order = ground.order
    return _host(ground, message, order.source_host, order.source_ak_name, transcript.challenge(t1))


def answer(ground: Ground, message: Answer, t2: bytes) -> tuple[Verdict, ProvenHost | None]:
    """Judge message 2: the destination's host."""
    order = ground.order
    return _host(
        ground, message, order.destination_host, order.destination_ak_name, transcript.answer(t2)
    )


def _host(
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


def confirmation(
    source: ProvenHost, message: Confirmation, t2: bytes
) -> tuple[Verdict, ProvenHost | None]:
    """Judge message 3."""
    return host_again(source, message.quote, transcript.confirmation(t2, message.nonce))


Linked = tuple[Verdict, ProvenHost | None, ProvenVtpm | None]


def _vtpm(
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
    verdict = certchain.verify_chain(
        leaf, proof.ek_chain[1:], ground.anchors, Role.VTPM, ground.now
    )
    verdict += _vtpm_authority(proof.ek_chain, host)
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


def _vtpm_authority(chain: Sequence[bytes], host: ProvenHost) -> Verdict:
    code, expected = (
        "trusted-clone.vtpm.host",
        f"an EK certified by the authority of {host.host_id}",
    )
    if len(chain) < 2:
        return Verdict.of(code, False, "an EK certificate without its host's authority", expected)
    try:
        found = certchain.host_of(chain[1], "vTPM authority")
    except MalformedInput as error:
        return Verdict.of(code, False, error, expected)
    return Verdict.of(code, found == host.host_id, f"one by that of {found}", expected)


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
        return Verdict()
    return Verdict.of(
        "trusted-clone.vtpm.identity",
        one.ak_name != other.ak_name and one.ek_public != other.ek_public,
        f"AK {one.ak_name.hex()} beside {other.ak_name.hex()}",
        "two vTPMs that share neither AK nor EK",
    )


def read_vtpm_statement(order: Order, data: bytes) -> VtpmStatement | NoVtpm:
    """Return message 4 of the kind that the order wants; raise :class:`MalformedInput` for any
    other."""
    return NoVtpm.decode(data) if order.vtpm_mode == "none" else VtpmStatement.decode(data)


def vtpm_statement(
    ground: Ground, destination: ProvenHost, message: VtpmStatement | NoVtpm, t2: bytes, n3: bytes
) -> Linked:
    """Judge message 4: the clone's vTPM, whose PCR 1–7 have to be its host's."""
    order = ground.order
    if isinstance(message, NoVtpm):
        datum = transcript.no_vtpm(t2, n3, order.clone_id)
        verdict, host = host_again(destination, message.quote, datum)
        return verdict, host, None
    verdict, host, vtpm = _vtpm(
        ground,
        destination,
        message.vtpm,
        lambda name, ek: transcript.vtpm_link(t2, n3, order.clone_id, order.vtpm_mode, name, ek),
        transcript.vtpm(t2, n3, order.clone_id),
    )
    for index in quote.VTPM_PCRS:
        verdict += Verdict.equal(
            f"trusted-clone.vtpm.pcr-{index}",
            message.vtpm.pcr_values[index],
            destination.pcrs[index],
        )
    return (verdict, host, vtpm) if verdict.ok else (verdict, None, None)


def read_page_key(data: bytes) -> PageKey:
    """Return message 5."""
    kinds: tuple[type[PageKey], ...] = (PageKeyByVtpm, PageKeyByHost)
    return decode(kinds, data)


def page_key(
    ground: Ground, source: ProvenHost, clone_vtpm: ProvenVtpm | None, message: PageKey, t2: bytes
) -> Linked:
    """Judge message 5: what vouches for the page key, and whether the regions are what was
    ordered."""
    verdict = regions(ground.order, message.regions)
    datum = transcript.page_key(
        message.vouched_by,
        t2,
        message.freeze_id,
        message.page_key,
        message.regions,
        message.pause_us,
    )
    if isinstance(message, PageKeyByVtpm):
        judged, host, vtpm = _vtpm(
            ground,
            source,
            message.vtpm,
            lambda name, ek: transcript.source_vtpm_link(
                t2, message.freeze_id, message.page_key, name, ek
            ),
            datum,
        )
        verdict += judged + distinct(vtpm, clone_vtpm)
    elif isinstance(message, PageKeyByHost):
        judged, host = host_again(source, message.quote, datum)
        vtpm = None
        verdict += judged + Verdict.of(
            "trusted-clone.page-key.voucher",
            ground.policy.allow_without_vtpm,
            "the source host's AK",
            "the server's vTPM: the policy does not allow servers without one",
        )
    else:
        raise MalformedInput(f"page key: nobody vouches in a {type(message).__name__}")
    return (verdict, host, vtpm) if verdict.ok else (verdict, None, None)


def regions(order: Order, rows: Sequence[RegionRow]) -> Verdict:
    """Judge whether the frozen regions are what was ordered: these disks, this memory, nothing
    unknown."""
    ids = [row[0] for row in rows]
    names = [(row[1], row[2]) for row in rows]
    verdict = Verdict.of(
        "trusted-clone.regions.unique",
        ids == sorted(set(ids)) and len(set(names)) == len(names),
        f"regions {ids[:32]}",
        "ascending ids, and each name once within its kind",
    )
    kinds = {row[1] for row in rows}
    allowed = REGION_KINDS - (set() if order.vtpm_mode == "derive" else {"vtpm"})
    verdict += Verdict.of(
        "trusted-clone.regions.kind",
        kinds <= allowed,
        ", ".join(sorted(kinds)),
        # A vTPM's state travels only where the order says that the clone's is derived from it.
        f"some of {', '.join(sorted(allowed))}",
    )
    paths = [name for _, name in names if ".." in name.split("/")]
    verdict += Verdict.of(
        "trusted-clone.regions.name", not paths, ", ".join(paths) or "no '..'", "no '..' in a name"
    )
    disks = sorted((name, size) for _, kind, name, size in rows if kind == "disk")
    verdict += Verdict.of(
        "trusted-clone.regions.disks", disks == sorted(order.disks), disks, sorted(order.disks)
    )
    memory = sum(size for _, kind, _, size in rows if kind == "ram")
    return verdict + Verdict.of(
        "trusted-clone.regions.memory",
        order.memory_bytes <= memory <= order.memory_bytes + MAX_SMALL_BLOCK_BYTES,
        f"{memory} bytes",
        f"{order.memory_bytes} bytes and at most {MAX_SMALL_BLOCK_BYTES} more",
    )


def counts(rows: Sequence[RegionRow], found: Counts) -> Verdict:
    """Judge whether counts are those of complete regions."""
    segments = sum(-(-size // SEGMENT_BYTES) for *_, size in rows)
    leaves = sum(-(-size // LEAF_BYTES) for *_, size in rows)
    return Verdict.of(
        "trusted-clone.counts.complete",
        (found.segments, found.leaves) == (segments, leaves) and found.zero_leaves <= leaves,
        f"{found.segments} segments, {found.leaves} leaves, {found.zero_leaves} of them zero",
        f"{segments} segments, {leaves} leaves",
    )


def final(
    source: ProvenHost, message: Final, t2: bytes, offered: PageKey
) -> tuple[Verdict, ProvenHost | None]:
    """Judge the source's last statement by itself; whether it is what was received is the
    receiver's to compare."""
    datum = transcript.final(t2, offered.freeze_id, message.manifest_root, message.counts)
    verdict, host = host_again(source, message.quote, datum)
    verdict += counts(offered.regions, message.counts)
    return verdict, host if verdict.ok else None


def same_transfer(
    code: str, root: bytes, found: Counts, expected_root: bytes, expected: Counts
) -> Verdict:
    """Judge whether two sides speak of the same bytes."""
    verdict = Verdict.equal(f"trusted-clone.{code}.root", root, expected_root)
    return verdict + Verdict.of(
        f"trusted-clone.{code}.counts", found == expected, found.row(), expected.row()
    )


def receipt(
    ground: Ground,
    destination: ProvenHost,
    message: Receipt,
    t2: bytes,
    offered: PageKey,
    sent: Final,
    made: bytes,
    others: Sequence[ProvenVtpm | None],
) -> tuple[Verdict, ProvenVtpm | None]:
    """Judge the destination's last statement.

    :param made: message 4 as it came; the installed vTPM is that one unless the order says
        ``derive``
    :param others: vTPMs from which a derived one has to differ
    """
    verdict = same_transfer(
        "receipt", message.manifest_root, message.counts, sent.manifest_root, sent.counts
    )
    host: ProvenHost | None = destination
    vtpm: ProvenVtpm | None = None
    if ground.order.vtpm_mode == "derive":
        judged, host, vtpm = _derived(ground, destination, message.installed, t2, offered)
        verdict += judged
        for other in others:
            verdict += distinct(vtpm, other)
    else:
        verdict += Verdict.equal("trusted-clone.receipt.vtpm", message.installed, made)
    if host is None:
        return verdict, None
    datum = transcript.receipt(
        t2, offered.freeze_id, message.manifest_root, message.counts, message.installed
    )
    return verdict + host_again(host, message.quote, datum)[0], vtpm


def _derived(
    ground: Ground, destination: ProvenHost, installed: bytes, t2: bytes, offered: PageKey
) -> Linked:
    try:
        message = DerivedVtpm.decode(installed)
    except MalformedInput as error:
        return Verdict.malformed(error), None, None
    clone_id = ground.order.clone_id
    return _vtpm(
        ground,
        destination,
        message.vtpm,
        lambda name, ek: transcript.installed_link(t2, offered.freeze_id, clone_id, name, ek),
        transcript.installed_vtpm(t2, offered.freeze_id, clone_id),
    )


def installed_proof(
    made: VtpmStatement | NoVtpm, message: Receipt, order: Order
) -> VtpmProof | None:
    """Return the vTPM that the clone runs with, for show; raise :class:`MalformedInput` if it
    cannot be read."""
    if order.vtpm_mode == "derive":
        return DerivedVtpm.decode(message.installed).vtpm
    return None if isinstance(made, NoVtpm) else made.vtpm
