"""Every state and every transition of both sides, in words. What is not here is an error.

The source asks and the destination answers::

    source                                          destination
    quotes, sends challenge (1)      ─────────────> checks, quotes
    checks, quotes                   <───────────── answer (2)
    confirmation (3)                 ─────────────> checks, makes the clone's vTPM, quotes
    checks, freezes the server       <───────────── vtpm-statement (4)
    vouches for the page key (5)     ─────────────> checks, fetches
    serves pages                     <───────────── accepted
    quotes the manifest: final       ─────────────> checks, quotes
    checks: complete                 <───────────── receipt: complete
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from nova_trusted_clone.core.protocol import events


class SourceState(enum.StrEnum):
    """Where a source's session is."""

    NEW = "new"
    QUOTING_CHALLENGE = "quoting the challenge"
    AWAITING_ANSWER = "awaiting the answer"
    QUOTING_CONFIRMATION = "quoting the confirmation"
    AWAITING_VTPM = "awaiting the clone's vTPM"
    FREEZING = "freezing"
    QUOTING_VTPM_LINK = "quoting the link to the server's vTPM"
    QUOTING_PAGE_KEY = "quoting the page key"
    AWAITING_ACCEPTANCE = "awaiting acceptance of the page key"
    SERVING = "serving pages"
    QUOTING_FINAL = "quoting the final statement"
    AWAITING_RECEIPT = "awaiting the receipt"
    COMPLETE = "complete"
    REFUSED = "refused"
    ABORTED = "aborted"


class DestinationState(enum.StrEnum):
    """Where a destination's session is."""

    NEW = "new"
    AWAITING_CHALLENGE = "awaiting the challenge"
    QUOTING_ANSWER = "quoting the answer"
    AWAITING_CONFIRMATION = "awaiting the confirmation"
    MAKING_VTPM = "making the clone's vTPM"
    QUOTING_VTPM_LINK = "quoting the link to the clone's vTPM"
    QUOTING_VTPM = "quoting by the clone's vTPM"
    QUOTING_NO_VTPM = "quoting that there is no vTPM"
    AWAITING_PAGE_KEY = "awaiting the page key"
    FETCHING = "fetching pages"
    QUOTING_INSTALLED_LINK = "quoting the link to the derived vTPM"
    QUOTING_INSTALLED_VTPM = "quoting by the derived vTPM"
    FETCHING_INSTALLED = "fetching pages, the derived vTPM is there"
    AWAITING_FINAL = "awaiting the final statement"
    QUOTING_RECEIPT = "quoting the receipt"
    COMPLETE = "complete"
    REFUSED = "refused"
    ABORTED = "aborted"


class Step(enum.StrEnum):
    """What moves a session on."""

    STARTED = "started, the order holds"
    QUOTED = "quote made"
    ACCEPTED = "message accepted"
    ACCEPTED_WITHOUT_VTPM = "message accepted, the order wants no vTPM"
    FROZEN_WITH_VTPM = "frozen, with a certified vTPM"
    FROZEN_WITHOUT_VTPM = "frozen, without a certified vTPM"
    VTPM_READY = "vTPM ready"
    VTPM_INSTALLED = "derived vTPM installed"
    TRANSFERRED = "transfer done"
    REFUSED = "a check failed"
    ABORTED = "aborted"


S, D = SourceState, DestinationState

_SOURCE: dict[tuple[SourceState, Step], SourceState] = {
    (S.NEW, Step.STARTED): S.QUOTING_CHALLENGE,
    (S.QUOTING_CHALLENGE, Step.QUOTED): S.AWAITING_ANSWER,
    (S.AWAITING_ANSWER, Step.ACCEPTED): S.QUOTING_CONFIRMATION,
    (S.QUOTING_CONFIRMATION, Step.QUOTED): S.AWAITING_VTPM,
    (S.AWAITING_VTPM, Step.ACCEPTED): S.FREEZING,
    (S.FREEZING, Step.FROZEN_WITH_VTPM): S.QUOTING_VTPM_LINK,
    (S.FREEZING, Step.FROZEN_WITHOUT_VTPM): S.QUOTING_PAGE_KEY,
    (S.QUOTING_VTPM_LINK, Step.QUOTED): S.QUOTING_PAGE_KEY,
    (S.QUOTING_PAGE_KEY, Step.QUOTED): S.AWAITING_ACCEPTANCE,
    (S.AWAITING_ACCEPTANCE, Step.ACCEPTED): S.SERVING,
    (S.SERVING, Step.TRANSFERRED): S.QUOTING_FINAL,
    (S.QUOTING_FINAL, Step.QUOTED): S.AWAITING_RECEIPT,
    (S.AWAITING_RECEIPT, Step.ACCEPTED): S.COMPLETE,
}

_DESTINATION: dict[tuple[DestinationState, Step], DestinationState] = {
    (D.NEW, Step.STARTED): D.AWAITING_CHALLENGE,
    (D.AWAITING_CHALLENGE, Step.ACCEPTED): D.QUOTING_ANSWER,
    (D.QUOTING_ANSWER, Step.QUOTED): D.AWAITING_CONFIRMATION,
    (D.AWAITING_CONFIRMATION, Step.ACCEPTED): D.MAKING_VTPM,
    (D.AWAITING_CONFIRMATION, Step.ACCEPTED_WITHOUT_VTPM): D.QUOTING_NO_VTPM,
    (D.MAKING_VTPM, Step.VTPM_READY): D.QUOTING_VTPM_LINK,
    (D.QUOTING_VTPM_LINK, Step.QUOTED): D.QUOTING_VTPM,
    (D.QUOTING_VTPM, Step.QUOTED): D.AWAITING_PAGE_KEY,
    (D.QUOTING_NO_VTPM, Step.QUOTED): D.AWAITING_PAGE_KEY,
    (D.AWAITING_PAGE_KEY, Step.ACCEPTED): D.FETCHING,
    (D.FETCHING, Step.VTPM_INSTALLED): D.QUOTING_INSTALLED_LINK,
    (D.QUOTING_INSTALLED_LINK, Step.QUOTED): D.QUOTING_INSTALLED_VTPM,
    (D.QUOTING_INSTALLED_VTPM, Step.QUOTED): D.FETCHING_INSTALLED,
    (D.FETCHING, Step.TRANSFERRED): D.AWAITING_FINAL,
    (D.FETCHING_INSTALLED, Step.TRANSFERRED): D.AWAITING_FINAL,
    (D.AWAITING_FINAL, Step.ACCEPTED): D.QUOTING_RECEIPT,
    (D.QUOTING_RECEIPT, Step.QUOTED): D.COMPLETE,
}

SOURCE_ENDS = frozenset({S.COMPLETE, S.REFUSED, S.ABORTED})
DESTINATION_ENDS = frozenset({D.COMPLETE, D.REFUSED, D.ABORTED})

# Whatever has not ended can be refused, by any failed check, or aborted, by anyone who may.
SOURCE: Mapping[tuple[SourceState, Step], SourceState] = {
    **_SOURCE,
    **{(state, Step.REFUSED): S.REFUSED for state in S if state not in SOURCE_ENDS},
    **{(state, Step.ABORTED): S.ABORTED for state in S if state not in SOURCE_ENDS},
}
DESTINATION: Mapping[tuple[DestinationState, Step], DestinationState] = {
    **_DESTINATION,
    **{(state, Step.REFUSED): D.REFUSED for state in D if state not in DESTINATION_ENDS},
    **{(state, Step.ABORTED): D.ABORTED for state in D if state not in DESTINATION_ENDS},
}

# Which steps an event can lead to; an event none of whose steps the table has in a state is not
# expected there.
STEPS: Mapping[type[object], tuple[Step, ...]] = {
    events.Start: (Step.STARTED,),
    events.MessageReceived: (Step.ACCEPTED, Step.ACCEPTED_WITHOUT_VTPM),
    events.QuoteMade: (Step.QUOTED,),
    events.FreezeDone: (Step.FROZEN_WITH_VTPM, Step.FROZEN_WITHOUT_VTPM),
    events.VtpmReady: (Step.VTPM_READY,),
    events.VtpmInstalled: (Step.VTPM_INSTALLED,),
    events.TransferDone: (Step.TRANSFERRED,),
    events.Abort: (Step.ABORTED,),
}


def diagram() -> str:
    """Return both tables as text, for the documentation."""
    parts = []
    for title, table in (("Source", _SOURCE), ("Destination", _DESTINATION)):
        width = max(len(state) for state, _ in table)
        steps = max(len(step) for _, step in table)
        parts.append(f"{title}\n{'-' * len(title)}")
        parts += [
            f"{state:<{width}}  --[ {step:<{steps}} ]-->  {following}"
            for (state, step), following in table.items()
        ]
        parts.append(
            "any state that is not an end: a check failed --> refused, aborted --> aborted\n"
        )
    return "\n".join(parts)
