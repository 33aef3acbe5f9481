"""What both sides' sessions share: the table rules, a failed check ends, and nothing else changes
the state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from nova_trusted_clone.core import errors
from nova_trusted_clone.core.attest import eventlog, quote, tpm_structs
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.protocol import actions, events, states
from nova_trusted_clone.core.protocol.messages import SignedQuote
from nova_trusted_clone.core.protocol.states import Step

Actions = tuple[actions.Action, ...]


@dataclasses.dataclass(frozen=True)
class LocalHost:
    """This host, as it introduces itself.

    :ivar ak_public: the AK's TPMT_PUBLIC
    :ivar ak_chain: the AK's certificate and intermediates, DER, without the root
    :ivar event_log: the measured-boot log
    """

    host_id: str
    ak_public: bytes
    ak_chain: tuple[bytes, ...]
    event_log: bytes

    def __post_init__(self) -> None:
        """Refuse at once what no peer would take; raises :class:`errors.MalformedInput`."""
        tpm_structs.parse_attestation_key(self.ak_public)
        eventlog.parse(self.event_log)

    @property
    def ak_name(self) -> bytes:
        """The TPM's name of the AK."""
        return tpm_structs.parse_attestation_key(self.ak_public).name

    def inherited(self) -> tuple[tuple[int, bytes], ...]:
        """What was measured into PCR 1–7, (index, digest) in order: what a clone's vTPM
        inherits."""
        return tuple(eventlog.measured(eventlog.parse(self.event_log), quote.VTPM_PCRS))


class Session:
    """A state machine over one side's table. Feed it from one thread, and do all its actions before
    the next event.

    A failed check is an action, ``Refused``; an event that the table does not have in this state
    raises
    :class:`errors.ProtocolError` and changes nothing.
    """

    TABLE: ClassVar[Mapping[Any, Any]] = {}

    def __init__(self, state: Any) -> None:
        self._state = state
        self._verdict = Verdict()
        self._handlers: dict[tuple[Any, type[Any]], Callable[[Any], Actions]] = {}
        self._asked = ""

    @property
    def state(self) -> Any:
        """Where the session is."""
        return self._state

    @property
    def verdict(self) -> Verdict:
        """Every check that was made so far."""
        return self._verdict

    def handle(self, event: events.Event) -> Actions:
        """Take an event and return what is to be done, in order.

        :raises errors.ProtocolError: if the event is not expected now
        :raises errors.MalformedInput: if what this host itself supplies cannot be sent
        """
        steps = states.STEPS.get(type(event), ())
        if not any((self._state, step) in self.TABLE for step in steps):
            raise errors.ProtocolError(self._state.value, type(event).__name__)
        if isinstance(event, events.Abort):
            self._advance(Step.ABORTED)
            return (actions.Release(event.reason),)
        try:
            return self._handlers[self._state, type(event)](event)
        except errors.Refused as refusal:
            return self._refuse(refusal.verdict)
        except errors.MalformedInput as error:
            if not isinstance(event, events.MessageReceived):
                raise  # our own fault, not the peer's
            return self._refuse(Verdict.malformed(error))

    def _refuse(self, verdict: Verdict) -> Actions:
        self._verdict += verdict
        self._advance(Step.REFUSED)
        return (actions.Refused(verdict),)

    def _advance(self, step: Step) -> None:
        self._state = self.TABLE[self._state, step]

    def _require(self, verdict: Verdict) -> None:
        """Keep a verdict that holds; raise :class:`errors.Refused` otherwise."""
        verdict.require()
        self._verdict += verdict

    def _ask(self, purpose: str, datum: bytes, signer: str = "host") -> Actions:
        self._asked = purpose
        pcrs = quote.HOST_PCRS if signer == "host" else quote.VTPM_PCRS
        return (actions.MakeQuote(purpose, signer, datum, pcrs),)

    def _take(self, event: events.QuoteMade) -> SignedQuote:
        """Return the quote that was asked for."""
        if event.purpose != self._asked:
            raise errors.ProtocolError(
                self._state.value, f"a quote for {event.purpose[:40]!r}, not {self._asked!r}"
            )
        return SignedQuote(event.attest, event.signature)


T = TypeVar("T")


def known(value: T | None) -> T:
    """Return what an earlier state has set; its absence would be a hole in the table."""
    if value is None:
        raise errors.CoreError("a state was reached without what the states before it set")
    return value
