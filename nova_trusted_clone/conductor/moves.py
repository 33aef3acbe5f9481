"""What one step makes of a record: the phase by the table, and everything that changes with it. No clock, no I/O."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from nova_trusted_clone.conductor import phases
from nova_trusted_clone.conductor.phases import Step
from nova_trusted_clone.db.clones import Change, Evidence
from nova_trusted_clone.objects.clone import Attempt, Clone, Phase
from nova_trusted_clone.rpc.errors import Conflict


@dataclasses.dataclass(frozen=True)
class Why:
    """The reason of an end, in words, and its stable code."""

    reason: str
    code: str


def require(clone: Clone, step: Step) -> Phase:
    """Return the phase that a step leads to.

    :raises Conflict: when the table does not have it; the text has the reason of a record that has ended
    """
    after = phases.following(clone.phase, step)
    if after is None:
        why = f": {clone.reason}" if clone.phase.ended and clone.reason else ""
        raise Conflict(
            f"the clone is {clone.phase}{why}; not expected: {step}",
            "trusted-clone.record.ended" if clone.phase.ended else "trusted-clone.record.phase",
        )
    return after


def claimed(clone: Clone, attempt: Attempt, now: datetime.datetime) -> Clone:
    """Return a record that a host has claimed."""
    return dataclasses.replace(
        clone,
        phase=require(clone, Step.CLAIM),
        host=attempt.host,
        attempt_id=attempt.id,
        freeze_id=None,
        reason=None,
        code=None,
        progress={},
        pause_us=None,
        updated_at=now,
        heard_at=now,
    )


def ordered(clone: Clone, attempt: Attempt, now: datetime.datetime) -> Clone | None:
    """Return a record whose order is signed; None when it waits for none, or for another attempt's."""
    if clone.attempt_id != attempt.id or phases.following(clone.phase, Step.ORDER) is None:
        return None
    return dataclasses.replace(
        clone,
        phase=require(clone, Step.ORDER),
        freeze_id=attempt.freeze_id,
        updated_at=now,
        heard_at=now,
    )


def reported(clone: Clone, told: dict[str, Any], now: datetime.datetime) -> Clone:
    """Return a record after a report of its destination that is not about its end.

    Old news changes no phase; what is not in the table is an error.
    """
    phase = Phase(told["phase"])
    after = clone.phase
    if not phases.is_behind(phase, clone.phase):
        after = require(clone, phases.REPORTED[phase])
    progress = {**clone.progress, **(told.get("progress") or {})}
    pause_us = told.get("pause_us")
    seen = dataclasses.replace(
        clone,
        phase=after,
        progress=progress,
        pause_us=clone.pause_us if pause_us is None else pause_us,
        heard_at=now,
    )
    unchanged = dataclasses.replace(seen, heard_at=clone.heard_at) == clone
    return seen if unchanged else dataclasses.replace(seen, updated_at=now)


def left(clone: Clone, attempt: Attempt | None, why: Why, now: datetime.datetime) -> Change:
    """Return a record whose host failed, and which another host may claim."""
    after = dataclasses.replace(
        clone,
        phase=require(clone, Step.RETRY),
        host=None,
        reason=why.reason,
        code=why.code,
        updated_at=now,
        heard_at=now,
    )
    return Change(after, ended=_over(attempt, why, now))


def ended(
    clone: Clone, attempt: Attempt | None, step: Step, why: Why, now: datetime.datetime
) -> Change:
    """Return a record that failed or was ended by somebody."""
    after = dataclasses.replace(
        clone,
        phase=require(clone, step),
        reason=why.reason,
        code=why.code,
        updated_at=now,
        heard_at=now,
    )
    return Change(after, ended=_over(attempt, why, now))


def proven(
    clone: Clone, attempt: Attempt | None, evidence: Evidence, pause_us: int, now: datetime.datetime
) -> Change:
    """Return a record whose evidence holds."""
    after = dataclasses.replace(
        clone,
        phase=require(clone, Step.PROVE),
        reason=None,
        code=None,
        pause_us=pause_us,
        updated_at=now,
        heard_at=now,
        completed_at=now,
    )
    closed = None if attempt is None else dataclasses.replace(attempt, is_open=False, ended_at=now)
    return Change(after, ended=closed, evidence=evidence)


def _over(attempt: Attempt | None, why: Why, now: datetime.datetime) -> Attempt | None:
    if attempt is None:
        return None
    return dataclasses.replace(
        attempt, is_open=False, reason=why.reason, code=why.code, ended_at=now
    )
