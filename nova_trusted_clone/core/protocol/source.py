"""The source's side: it releases nothing about the server before the destination's host and the
clone's vTPM are proven."""

from __future__ import annotations

from typing import ClassVar

from nova_trusted_clone.core.attest import tpm_structs
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol import (
    actions,
    checks,
    events,
    evidence,
    order,
    proofs,
    terms,
    transcript,
)
from nova_trusted_clone.core.protocol.messages import (
    Accepted,
    Answer,
    Challenge,
    Confirmation,
    Final,
    PageKey,
    PageKeyByHost,
    PageKeyByVtpm,
    Receipt,
    SignedQuote,
    VtpmProof,
)
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.core.protocol.session import Actions, LocalHost, Session, known
from nova_trusted_clone.core.protocol.states import SOURCE, SourceState, Step

__all__ = ["LocalHost", "SourceSession"]

S = SourceState


class SourceSession(Session):
    """One clone, as its source host sees it.

    :param channel_certificate: the exporter's ephemeral TLS certificate, DER
    """

    TABLE: ClassVar = SOURCE

    def __init__(
        self,
        settings: LocalHost,
        trust: TrustAnchors,
        policy: Policy,
        signed_order: SignedOrder,
        channel_certificate: bytes,
    ) -> None:
        super().__init__(S.NEW)
        self._local, self._trust, self._policy = settings, trust, policy
        self._signed, self._certificate = signed_order, channel_certificate
        self._order = signed_order.order()
        self._sent = evidence.Collected()
        self._n1 = self._n3 = self._t1 = self._t2 = self._peer_certificate = b""
        self._destination: proofs.ProvenHost | None = None
        self._clone_vtpm: proofs.ProvenVtpm | None = None
        self._source_vtpm: proofs.ProvenVtpm | None = None
        self._frozen: events.FreezeDone | None = None
        self._offered: PageKey | None = None
        self._done: events.TransferDone | None = None
        self._final: Final | None = None
        self._link: SignedQuote | None = None
        self._handlers = {
            (S.NEW, events.Start): self._start,
            (S.QUOTING_CHALLENGE, events.QuoteMade): self._challenge,
            (S.AWAITING_ANSWER, events.MessageReceived): self._on_answer,
            (S.QUOTING_CONFIRMATION, events.QuoteMade): self._confirm,
            (S.AWAITING_VTPM, events.MessageReceived): self._on_vtpm,
            (S.FREEZING, events.FreezeDone): self._on_freeze,
            (S.QUOTING_VTPM_LINK, events.QuoteMade): self._on_link,
            (S.QUOTING_PAGE_KEY, events.QuoteMade): self._offer,
            (S.AWAITING_ACCEPTANCE, events.MessageReceived): self._on_accepted,
            (S.SERVING, events.TransferDone): self._on_transfer,
            (S.QUOTING_FINAL, events.QuoteMade): self._finish,
            (S.AWAITING_RECEIPT, events.MessageReceived): self._on_receipt,
        }

    @property
    def order(self) -> order.Order:
        """The order; verified once the session has started."""
        return self._order

    def _ground(self, now: int) -> proofs.Ground:
        return proofs.Ground(self._signed.order_bytes, self._order, self._trust, self._policy, now)

    # -- proof of both hosts --------------------------------------------------------------------

    def _start(self, event: events.Start) -> Actions:
        verdict, _ = order.verify_order(
            self._signed, self._trust, self._policy, event.now, self._local.host_id, "source"
        )
        verdict += Verdict.equal(
            "trusted-clone.order.source-ak", self._local.ak_name, self._order.source_ak_name
        )
        self._require(verdict)
        if len(event.nonce) != 32:
            raise MalformedInput(f"nonce: found {len(event.nonce)} bytes, expected 32")
        self._n1, self._n3 = transcript.nonces(event.nonce)
        self._t1 = transcript.first(
            self._signed.order_bytes, self._order, self._n1, self._certificate
        )
        self._advance(Step.STARTED)
        return self._ask("challenge", transcript.challenge(self._t1, self._local.event_log))

    def _challenge(self, event: events.QuoteMade) -> Actions:
        message = Challenge(
            order=self._signed.encode(),
            nonce=self._n1,
            channel_certificate=self._certificate,
            ak_chain=self._local.ak_chain,
            ak_public=self._local.ak_public,
            event_log=self._local.event_log,
            quote=self._take(event),
        )
        self._sent.challenge = message.encode()
        self._advance(Step.QUOTED)
        return (actions.Send(self._sent.challenge),)

    def _on_answer(self, event: events.MessageReceived) -> Actions:
        message = Answer.decode(event.data)
        t2 = transcript.second(self._t1, message.nonce, message.channel_certificate)
        verdict, host = checks.answer(self._ground(event.now), message, t2)
        self._require(verdict + order.check_time(self._order, event.now))
        self._t2, self._destination, self._sent.answer = t2, host, event.data
        self._peer_certificate = message.channel_certificate
        self._advance(Step.ACCEPTED)
        return self._ask("confirmation", transcript.confirmation(t2, self._n3))

    def _confirm(self, event: events.QuoteMade) -> Actions:
        self._sent.confirmation = Confirmation(self._n3, self._take(event)).encode()
        self._advance(Step.QUOTED)
        return (actions.Send(self._sent.confirmation),)

    def _on_vtpm(self, event: events.MessageReceived) -> Actions:
        message = checks.read_vtpm_statement(self._order, event.data)
        verdict, host, vtpm = checks.vtpm_statement(
            self._ground(event.now), known(self._destination), message, self._t2, self._n3
        )
        self._require(verdict + order.check_time(self._order, event.now))
        self._destination, self._clone_vtpm, self._sent.vtpm = host, vtpm, event.data
        self._advance(Step.ACCEPTED)
        return (actions.OpenChannel(self._peer_certificate), actions.Freeze())

    # -- the freeze -----------------------------------------------------------------------------

    def _on_freeze(self, event: events.FreezeDone) -> Actions:
        self._require(terms.regions(self._order, event.regions))
        self._frozen = event
        if event.vtpm is None:
            self._advance(Step.FROZEN_WITHOUT_VTPM)
            return self._ask_page_key("host")
        name = tpm_structs.parse_attestation_key(event.vtpm.ak_public).name
        datum = transcript.source_vtpm_link(
            self._t2, event.freeze_id, event.page_key, name, event.vtpm.ek_chain[0]
        )
        self._advance(Step.FROZEN_WITH_VTPM)
        return self._ask("source-vtpm-link", datum)

    def _ask_page_key(self, voucher: str) -> Actions:
        frozen = known(self._frozen)
        datum = transcript.page_key(
            voucher,
            self._t2,
            frozen.freeze_id,
            frozen.page_key,
            frozen.regions,
            frozen.pause_us,
        )
        return self._ask("page-key", datum, signer=voucher)

    def _on_link(self, event: events.QuoteMade) -> Actions:
        self._link = self._take(event)
        self._advance(Step.QUOTED)
        return self._ask_page_key("vtpm")

    def _offer(self, event: events.QuoteMade) -> Actions:
        frozen, made = known(self._frozen), self._take(event)
        common = (frozen.freeze_id, frozen.page_key, tuple(frozen.regions), frozen.pause_us)
        if frozen.vtpm is None:
            self._offered = PageKeyByHost(*common, quote=made)
        else:
            proof = VtpmProof(
                ek_chain=tuple(frozen.vtpm.ek_chain),
                ak_public=frozen.vtpm.ak_public,
                pcr_values=dict(frozen.vtpm.pcr_values),
                link=known(self._link),
                quote=made,
            )
            self._offered = PageKeyByVtpm(*common, vtpm=proof)
            self._source_vtpm = proofs.own_vtpm(proof)
            self._require(proofs.distinct(self._source_vtpm, self._clone_vtpm))
        self._sent.page_key = self._offered.encode()
        self._advance(Step.QUOTED)
        return (actions.Send(self._sent.page_key),)

    def _on_accepted(self, event: events.MessageReceived) -> Actions:
        message = Accepted.decode(event.data)
        self._require(
            Verdict.equal(
                "trusted-clone.accepted.freeze", message.freeze_id, known(self._offered).freeze_id
            )
        )
        self._advance(Step.ACCEPTED)
        return ()

    # -- the end --------------------------------------------------------------------------------

    def _on_transfer(self, event: events.TransferDone) -> Actions:
        offered = known(self._offered)
        self._require(terms.counts(offered.regions, event.counts))
        self._done = event
        datum = transcript.final(self._t2, offered.freeze_id, event.manifest_root, event.counts)
        self._advance(Step.TRANSFERRED)
        return self._ask("final", datum)

    def _finish(self, event: events.QuoteMade) -> Actions:
        done = known(self._done)
        self._final = Final(done.manifest_root, done.counts, self._take(event))
        self._sent.final = self._final.encode()
        self._advance(Step.QUOTED)
        return (actions.Send(self._sent.final),)

    def _on_receipt(self, event: events.MessageReceived) -> Actions:
        message = Receipt.decode(event.data)
        ground, offered = self._ground(event.now), known(self._offered)
        verdict, _ = checks.receipt(
            ground,
            known(self._destination),
            message,
            self._t2,
            offered,
            known(self._final),
            self._sent.vtpm,
            (self._clone_vtpm, self._source_vtpm),
        )
        self._require(verdict)
        self._sent.receipt = event.data
        self._advance(Step.ACCEPTED)
        return (actions.Completed(self._sent.to_evidence()),)
