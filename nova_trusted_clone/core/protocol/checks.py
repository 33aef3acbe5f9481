"""What each message is judged by: pure functions that the source, the destination and evidence all
use.

Each returns a verdict and, only without a failure, what was proven.
"""

from __future__ import annotations

from collections.abc import Sequence

from nova_trusted_clone.core.attest import quote
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol import proofs, terms, transcript
from nova_trusted_clone.core.protocol.messages import (
    Answer,
    Challenge,
    Confirmation,
    DerivedVtpm,
    Final,
    NoVtpm,
    PageKey,
    PageKeyByHost,
    PageKeyByVtpm,
    Receipt,
    VtpmProof,
    VtpmStatement,
)
from nova_trusted_clone.core.protocol.order import Order
from nova_trusted_clone.core.protocol.proofs import Ground, Linked, ProvenHost, ProvenVtpm
from nova_trusted_clone.core.protocol.wire import decode


def challenge(ground: Ground, message: Challenge, t1: bytes) -> tuple[Verdict, ProvenHost | None]:
    """Judge message 1: the source's host."""
    order = ground.order
    return proofs.introduced_host(
        ground,
        message,
        order.source_host,
        order.source_ak_name,
        transcript.challenge(t1, message.event_log),
    )


def answer(ground: Ground, message: Answer, t2: bytes) -> tuple[Verdict, ProvenHost | None]:
    """Judge message 2: the destination's host."""
    order = ground.order
    return proofs.introduced_host(
        ground,
        message,
        order.destination_host,
        order.destination_ak_name,
        transcript.answer(t2, message.event_log),
    )


def confirmation(
    source: ProvenHost, message: Confirmation, t2: bytes
) -> tuple[Verdict, ProvenHost | None]:
    """Judge message 3."""
    return proofs.host_again(source, message.quote, transcript.confirmation(t2, message.nonce))


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
        verdict, host = proofs.host_again(destination, message.quote, datum)
        return verdict, host, None
    verdict, host, vtpm = proofs.linked_vtpm(
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
    verdict = terms.regions(ground.order, message.regions)
    datum = transcript.page_key(
        message.vouched_by,
        t2,
        message.freeze_id,
        message.page_key,
        message.regions,
        message.pause_us,
    )
    if isinstance(message, PageKeyByVtpm):
        judged, host, vtpm = proofs.linked_vtpm(
            ground,
            source,
            message.vtpm,
            lambda name, ek: transcript.source_vtpm_link(
                t2, message.freeze_id, message.page_key, name, ek
            ),
            datum,
        )
        verdict += judged + proofs.distinct(vtpm, clone_vtpm)
    elif isinstance(message, PageKeyByHost):
        judged, host = proofs.host_again(source, message.quote, datum)
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


def final(
    source: ProvenHost, message: Final, t2: bytes, offered: PageKey
) -> tuple[Verdict, ProvenHost | None]:
    """Judge the source's last statement by itself; whether it is what was received is the
    receiver's to compare."""
    datum = transcript.final(t2, offered.freeze_id, message.manifest_root, message.counts)
    verdict, host = proofs.host_again(source, message.quote, datum)
    verdict += terms.counts(offered.regions, message.counts)
    return verdict, host if verdict.ok else None


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
    verdict = terms.same_transfer(
        "receipt", message.manifest_root, message.counts, sent.manifest_root, sent.counts
    )
    host: ProvenHost | None = destination
    vtpm: ProvenVtpm | None = None
    if ground.order.vtpm_mode == "derive":
        judged, host, vtpm = _derived(ground, destination, message.installed, t2, offered)
        verdict += judged
        for other in others:
            verdict += proofs.distinct(vtpm, other)
    else:
        verdict += Verdict.equal("trusted-clone.receipt.vtpm", message.installed, made)
    if host is None:
        return verdict, None
    datum = transcript.receipt(
        t2, offered.freeze_id, message.manifest_root, message.counts, message.installed
    )
    return verdict + proofs.host_again(host, message.quote, datum)[0], vtpm


def _derived(
    ground: Ground, destination: ProvenHost, installed: bytes, t2: bytes, offered: PageKey
) -> Linked:
    try:
        message = DerivedVtpm.decode(installed)
    except MalformedInput as error:
        return Verdict.malformed(error), None, None
    clone_id = ground.order.clone_id
    return proofs.linked_vtpm(
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
