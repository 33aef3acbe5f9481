"""Every phase of a clone's record and every step between phases, in words. What is not here is an error.

The steps RETRY and CLAIM before the guest runs are nova's own reschedule: a host that failed is left, another
claims. Once the guest runs (provisional) there is no other host: it becomes complete, or it has failed. Phases
that the destination passes quickly may be skipped, since a report may get lost; none leads back.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from nova_trusted_clone.objects.clone import Phase


class Step(enum.StrEnum):
    """What moves a record on, and who says so."""

    CLAIM = "a host claims the server"
    ORDER = "its order is signed"
    ATTEST = "the hosts prove themselves"
    FETCH = "pages come"
    RESTORE = "the guest is put together"
    RUN = "the guest runs"
    PROVE = "the evidence holds"
    RETRY = "this host failed, another may try"
    FAIL = "it failed"
    ABORT = "somebody ended it"


P, S = Phase, Step

_ON_A_HOST = (P.ORDERED, P.ATTESTING, P.FETCHING, P.RESTORING)
_FORWARD = (
    (S.ATTEST, P.ATTESTING),
    (S.FETCH, P.FETCHING),
    (S.RESTORE, P.RESTORING),
    (S.RUN, P.PROVISIONAL),
    (S.PROVE, P.COMPLETE),
)
_ORDER = tuple(Phase)

TABLE: Mapping[tuple[Phase, Step], Phase] = {
    (P.SCHEDULING, S.CLAIM): P.CLAIMED,
    # A failure told before any claim, such as a host that is not enrolled: the next host may do.
    (P.SCHEDULING, S.RETRY): P.SCHEDULING,
    (P.CLAIMED, S.ORDER): P.ORDERED,
    **{(phase, S.CLAIM): P.CLAIMED for phase in (P.CLAIMED, *_ON_A_HOST)},
    **{(phase, S.RETRY): P.SCHEDULING for phase in (P.CLAIMED, *_ON_A_HOST)},
    **{
        (phase, step): following
        for phase in (*_ON_A_HOST, P.PROVISIONAL)
        for step, following in _FORWARD
        if _ORDER.index(following) > _ORDER.index(phase)
    },
    **{(phase, S.FAIL): P.FAILED for phase in P if not phase.ended},
    **{(phase, S.ABORT): P.ABORTED for phase in P if not phase.ended},
}

REPORTED: Mapping[Phase, Step] = {
    P.ATTESTING: S.ATTEST,
    P.FETCHING: S.FETCH,
    P.RESTORING: S.RESTORE,
    P.PROVISIONAL: S.RUN,
    P.FAILED: S.FAIL,
}
"""The step that a destination's report of a phase is; what is not here only evidence, or nobody, may report."""


def following(phase: Phase, step: Step) -> Phase | None:
    """Return where ``step`` leads from ``phase``; None where the table does not have it."""
    return TABLE.get((phase, step))


def is_behind(reported: Phase, phase: Phase) -> bool:
    """Whether a report tells of a phase that the record has passed, or is in: old news, no error."""
    return not phase.ended and not reported.ended and _ORDER.index(reported) <= _ORDER.index(phase)


def diagram() -> str:
    """Return the table as text, for the documentation."""
    common = {S.FAIL, S.ABORT}
    rows = [(phase, step, after) for (phase, step), after in TABLE.items() if step not in common]
    wide, far = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    lines = [f"{phase:<{wide}}  --[ {step:<{far}} ]-->  {after}" for phase, step, after in rows]
    lines.append(f"any that has not ended: {S.FAIL} --> failed, {S.ABORT} --> aborted")
    return "\n".join(lines) + "\n"
