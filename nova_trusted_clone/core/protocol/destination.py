"""The destination's side: it answers only a proven source, and believes only pages of a key that
was vouched for."""

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
    DerivedVtpm,
    Final,
    NoVtpm,
    PageKey,
    Receipt,
    SignedQuote,
    VtpmProof,
    VtpmStatement,
)
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.core.protocol.replay import ReplayGuard
from nova_trusted_clone.core.protocol.session import Actions, LocalHost, Session, known
from nova_trusted_clone.core.protocol.states import DESTINATION, DestinationState, Step

__all__ = ["DestinationSession", "LocalHost"]

D = DestinationState


class DestinationSession(Session):
    """One clone, as its destination host sees it.

    :param signed_order: as the control plane gave it; the source has to bring the same
    :param channel_certificate: the store's ephemeral TLS certificate, DER
    :param replay_guard: remembers clone ids and nonces
    """

    TABLE: ClassVar = DESTINATION

    def __init__(
        self,
        settings: LocalHost,
        trust: TrustAnchors,
        policy: Policy,
        signed_order: SignedOrder,
        channel_certificate: bytes,
        replay_guard: ReplayGuard,
    ) -> None:
        super().__init__(D.NEW)
        self._local, self._trust, self._policy = settings, trust, policy
        self._signed, self._certificate = signed_order, channel_certificate
        self._guard = replay_guard
        self._order = signed_order.order()
        self._seen = evidence.Collected()
        self._n2 = self._n3 = self._t2 = self._peer_certificate = b""
        self._source: proofs.ProvenHost | None = None
        self._identity: events.VtpmIdentity | None = None
        self._clone_vtpm: proofs.ProvenVtpm | None = None
        self._source_vtpm: proofs.ProvenVtpm | None = None
        self._link: SignedQuote | None = None
        self._offered: PageKey | None = None
        self._done: events.TransferDone | None = None
        self._installed = b""
        self._handlers = {
            (D.NEW, events.Start): self._start,
            (D.AWAITING_CHALLENGE, events.MessageReceived): self._on_challenge,
            (D.QUOTING_ANSWER, events.QuoteMade): self._answer,
            (D.AWAITING_CONFIRMATION, events.MessageReceived): self._on_confirmation,
            (D.MAKING_VTPM, events.VtpmReady): self._on_vtpm_ready,
            (D.QUOTING_VTPM_LINK, events.QuoteMade): self._on_link,
            (D.QUOTING_VTPM, events.QuoteMade): self._state_vtpm,
            (D.QUOTING_NO_VTPM, events.QuoteMade): self._state_no_vtpm,
            (D.AWAITING_PAGE_KEY, events.MessageReceived): self._on_page_key,
            (D.FETCHING, events.VtpmInstalled): self._on_installed,
            (D.QUOTING_INSTALLED_LINK, events.QuoteMade): self._on_installed_link,
            (D.QUOTING_INSTALLED_VTPM, events.QuoteMade): self._state_installed,
            (D.FETCHING, events.TransferDone): self._on_transfer,
            (D.FETCHING_INSTALLED, events.TransferDone): self._on_transfer,
            (D.AWAITING_FINAL, events.MessageReceived): self._on_final,
            (D.QUOTING_RECEIPT, events.QuoteMade): self._receipt,
        }

    @property
    def order(self) -> order.Order:
        """The order; verified once the session has started."""
        return self._order

    def _ground(self, now: int) -> proofs.Ground:
        return proofs.Ground(self._signed.order_bytes, self._order, self._trust, self._policy, now)

    # -- proof of both hosts --------------------------------------------------------------------

    def _judge_order(self, signed: SignedOrder, now: int) -> Verdict:
        verdict, _ = order.verify_order(
            signed, self._trust, self._policy, now, self._local.host_id, "destination"
        )
        return verdict

    def _start(self, event: events.Start) -> Actions:
        self._require(
            self._judge_order(self._signed, event.now)
            + Verdict.equal(
                "trusted-clone.order.destination-ak",
                self._local.ak_name,
                self._order.destination_ak_name,
            )
        )
        if len(event.nonce) != 32:
            raise MalformedInput(f"nonce: found {len(event.nonce)} bytes, expected 32")
        self._n2 = event.nonce
        self._advance(Step.STARTED)
        return ()

    def _on_challenge(self, event: events.MessageReceived) -> Actions:
        message = Challenge.decode(event.data)
        signed = SignedOrder.decode(message.order)
        verdict = self._judge_order(signed, event.now)
        verdict += Verdict.equal(
            "trusted-clone.order.same", signed.order_bytes, self._signed.order_bytes
        )
        t1 = transcript.first(
            self._signed.order_bytes, self._order, message.nonce, message.channel_certificate
        )
        judged, host = checks.challenge(self._ground(event.now), message, t1)
        self._require(verdict + judged)
        # Only what has proven itself is remembered: nobody else can use up a clone's id.
        self._require(self._first_use("clone", self._order.clone_id))
        self._require(self._first_use("nonce", message.nonce))
        self._source, self._seen.challenge = host, event.data
        self._peer_certificate = message.channel_certificate
        self._t2 = transcript.second(t1, self._n2, self._certificate)
        self._advance(Step.ACCEPTED)
        return self._ask("answer", transcript.answer(self._t2, self._local.event_log))

    def _first_use(self, kind: str, value: bytes) -> Verdict:
        return Verdict.of(
            f"trusted-clone.replay.{kind}",
            self._guard.first_use(kind, value),
            f"{kind} {value.hex()}",
            "one that was not used before",
        )

    def _answer(self, event: events.QuoteMade) -> Actions:
        self._seen.answer = Answer(
            nonce=self._n2,
            channel_certificate=self._certificate,
            ak_chain=self._local.ak_chain,
            ak_public=self._local.ak_public,
            event_log=self._local.event_log,
            quote=self._take(event),
        ).encode()
        self._advance(Step.QUOTED)
        return (actions.Send(self._seen.answer),)

    def _on_confirmation(self, event: events.MessageReceived) -> Actions:
        message = Confirmation.decode(event.data)
        verdict, host = checks.confirmation(known(self._source), message, self._t2)
        self._require(verdict + order.check_time(self._order, event.now))
        self._source, self._n3, self._seen.confirmation = host, message.nonce, event.data
        channel = actions.OpenChannel(self._peer_certificate)
        if self._order.vtpm_mode == "none":
            self._advance(Step.ACCEPTED_WITHOUT_VTPM)
            datum = transcript.no_vtpm(self._t2, self._n3, self._order.clone_id)
            return (channel, *self._ask("no-vtpm", datum))
        self._advance(Step.ACCEPTED)
        return (channel, actions.MakeVtpm(self._order.vtpm_mode, self._local.inherited()))

    # -- the clone's vTPM -----------------------------------------------------------------------

    def _on_vtpm_ready(self, event: events.VtpmReady) -> Actions:
        name = tpm_structs.parse_attestation_key(event.vtpm.ak_public).name
        datum = transcript.vtpm_link(
            self._t2,
            self._n3,
            self._order.clone_id,
            self._order.vtpm_mode,
            name,
            event.vtpm.ek_chain[0],
        )
        self._identity = event.vtpm
        self._advance(Step.VTPM_READY)
        return self._ask("vtpm-link", datum)

    def _on_link(self, event: events.QuoteMade) -> Actions:
        self._link = self._take(event)
        self._advance(Step.QUOTED)
        datum = transcript.vtpm(self._t2, self._n3, self._order.clone_id)
        return self._ask("vtpm", datum, signer="vtpm")

    def _proof(self, event: events.QuoteMade) -> VtpmProof:
        identity = known(self._identity)
        return VtpmProof(
            ek_chain=tuple(identity.ek_chain),
            ak_public=identity.ak_public,
            pcr_values=dict(identity.pcr_values),
            link=known(self._link),
            quote=self._take(event),
        )

    def _state_vtpm(self, event: events.QuoteMade) -> Actions:
        proof = self._proof(event)
        self._seen.vtpm = VtpmStatement(proof).encode()
        self._clone_vtpm = proofs.own_vtpm(proof)
        self._advance(Step.QUOTED)
        return (actions.Send(self._seen.vtpm),)

    def _state_no_vtpm(self, event: events.QuoteMade) -> Actions:
        self._seen.vtpm = NoVtpm(self._take(event)).encode()
        self._advance(Step.QUOTED)
        return (actions.Send(self._seen.vtpm),)

    # -- pages ----------------------------------------------------------------------------------

    def _on_page_key(self, event: events.MessageReceived) -> Actions:
        message = checks.read_page_key(event.data)
        verdict, host, vtpm = checks.page_key(
            self._ground(event.now), known(self._source), self._clone_vtpm, message, self._t2
        )
        self._require(verdict)
        self._source, self._source_vtpm, self._offered = host, vtpm, message
        self._seen.page_key = event.data
        accepted = Accepted(message.freeze_id).encode()
        self._advance(Step.ACCEPTED)
        fetch = actions.Fetch(
            message.page_key, message.freeze_id, message.regions, message.pause_us
        )
        return (actions.Send(accepted), fetch)

    def _on_installed(self, event: events.VtpmInstalled) -> Actions:
        if self._order.vtpm_mode != "derive":
            raise MalformedInput(f"vTPM installed: the order's mode is {self._order.vtpm_mode}")
        name = tpm_structs.parse_attestation_key(event.vtpm.ak_public).name
        datum = transcript.installed_link(
            self._t2,
            known(self._offered).freeze_id,
            self._order.clone_id,
            name,
            event.vtpm.ek_chain[0],
        )
        self._identity = event.vtpm
        self._advance(Step.VTPM_INSTALLED)
        return self._ask("installed-vtpm-link", datum)

    def _on_installed_link(self, event: events.QuoteMade) -> Actions:
        self._link = self._take(event)
        self._advance(Step.QUOTED)
        datum = transcript.installed_vtpm(
            self._t2, known(self._offered).freeze_id, self._order.clone_id
        )
        return self._ask("installed-vtpm", datum, signer="vtpm")

    def _state_installed(self, event: events.QuoteMade) -> Actions:
        proof = self._proof(event)
        derived = proofs.own_vtpm(proof)
        self._require(
            proofs.distinct(derived, self._clone_vtpm) + proofs.distinct(derived, self._source_vtpm)
        )
        self._installed = DerivedVtpm(proof).encode()
        self._advance(Step.QUOTED)
        return ()

    # -- the end --------------------------------------------------------------------------------

    def _on_transfer(self, event: events.TransferDone) -> Actions:
        derived = self._order.vtpm_mode == "derive"
        self._require(
            terms.counts(known(self._offered).regions, event.counts)
            + Verdict.of(
                "trusted-clone.vtpm.installed",
                bool(self._installed) == derived,
                "a derived vTPM" if self._installed else "no derived vTPM",
                "a derived vTPM before the end" if derived else "none",
            )
        )
        self._done = event
        self._installed = self._installed or self._seen.vtpm
        self._advance(Step.TRANSFERRED)
        return ()

    def _on_final(self, event: events.MessageReceived) -> Actions:
        message = Final.decode(event.data)
        done, offered = known(self._done), known(self._offered)
        verdict, host = checks.final(known(self._source), message, self._t2, offered)
        verdict += terms.same_transfer(
            "final", message.manifest_root, message.counts, done.manifest_root, done.counts
        )
        self._require(verdict)
        self._source, self._seen.final = host, event.data
        datum = transcript.receipt(
            self._t2, offered.freeze_id, done.manifest_root, done.counts, self._installed
        )
        self._advance(Step.ACCEPTED)
        return self._ask("receipt", datum)

    def _receipt(self, event: events.QuoteMade) -> Actions:
        done = known(self._done)
        self._seen.receipt = Receipt(
            done.manifest_root, done.counts, self._installed, self._take(event)
        ).encode()
        self._advance(Step.QUOTED)
        return (actions.Send(self._seen.receipt), actions.Completed(self._seen.to_evidence()))
