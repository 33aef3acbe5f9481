"""Records moved in the database, and whoever wants to know told: once, by the worker whose move it was."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from oslo_log import log as logging

from nova_trusted_clone.conductor import moves
from nova_trusted_clone.conductor.moves import Why
from nova_trusted_clone.conductor.phases import Step
from nova_trusted_clone.db.clones import Change, Clones, Evidence
from nova_trusted_clone.objects.clone import Attempt, Clone, Phase
from nova_trusted_clone.rpc.errors import Conflict, Invalid, NotFound

LOG = logging.getLogger(__name__)

Listener = Callable[[Clone, Clone], None]
"""Told of a record before and after a change of its phase."""

OVER = "trusted-clone.attempt.over"


def utc_now() -> datetime.datetime:
    """Return the time in UTC, without a zone, as the database keeps it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class Records:
    """Moves of clone records."""

    def __init__(
        self,
        clones: Clones,
        listener: Listener,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        self.clones = clones
        self.now = now
        self._listener = listener

    def report(self, attempt_id: str, told: Mapping[str, Any]) -> None:
        """Take a destination's report.

        :raises Conflict: when this attempt is over, which its host learns in this way
        """
        phase = Phase(told["phase"])
        if phase in (Phase.COMPLETE, Phase.ABORTED):
            raise Invalid(
                f"report.status.phase: {phase} is not for a host to say; hand in the evidence"
            )
        if phase is Phase.FAILED:
            why = Why(
                told.get("reason") or "no reason was given",
                told.get("code") or "trusted-clone.failed",
            )
            self.fail(self.require_attempt(attempt_id).server_id, attempt_id, why)
            return

        def decide(clone: Clone, attempt: Attempt | None) -> Change:
            require_current(clone, attempt, attempt_id)
            return Change(moves.reported(clone, dict(told), self.now()))

        self.change(self.require_attempt(attempt_id).server_id, decide)

    def retry(self, server_id: str, attempt_id: str | None, why: Why) -> None:
        """Let another host claim a server; nothing happens when it is past that, or another claimed already."""

        def decide(clone: Clone, attempt: Attempt | None) -> Change | None:
            if _is_others(clone, attempt, attempt_id):
                return None
            return moves.left(clone, attempt, why, self.now())

        self.change(server_id, decide)

    def fail(self, server_id: str, attempt_id: str | None, why: Why) -> tuple[Clone, Clone] | None:
        """End a record; nothing happens when it has failed already, or goes on with another attempt.

        :raises Conflict: when it is complete
        """
        return self._end(server_id, attempt_id, Step.FAIL, why)

    def abort(self, server_id: str, why: Why) -> tuple[Clone, Clone] | None:
        """End a record by somebody's will.

        :raises Conflict: when it is complete
        """
        return self._end(server_id, None, Step.ABORT, why)

    def prove(self, server_id: str, attempt_id: str, evidence: Evidence, pause_us: int) -> None:
        """Record verified evidence; the same once more changes nothing."""

        def decide(clone: Clone, attempt: Attempt | None) -> Change | None:
            if clone.phase is Phase.COMPLETE and clone.attempt_id == attempt_id:
                return None
            require_current(clone, attempt, attempt_id)
            return moves.proven(clone, attempt, evidence, pause_us, self.now())

        self.change(server_id, decide)

    def change(
        self, server_id: str, decide: Callable[[Clone, Attempt | None], Change | None]
    ) -> tuple[Clone, Clone] | None:
        """Change a record, and tell the listener if that was a move."""
        changed = self.clones.change(server_id, decide)
        if changed is not None:
            self.tell(*changed)
        return changed

    def tell(self, before: Clone, after: Clone) -> None:
        """Tell the listener of a move."""
        if before.phase is after.phase:
            return
        why = f": {after.reason}" if after.reason else ""
        asked = after.request_id or "no request id"
        LOG.info("clone %s (%s): %s -> %s%s", after.id, asked, before.phase, after.phase, why)
        self._listener(before, after)

    def require_attempt(self, attempt_id: str) -> Attempt:
        """Return an attempt with its order.

        :raises NotFound: when there is none
        """
        attempt = self.clones.attempt(attempt_id)
        if attempt is None:
            raise NotFound(f"no clone {attempt_id} is known", "trusted-clone.attempt.unknown")
        return attempt

    def require(self, clone_id: str) -> Clone:
        """Return a record.

        :raises NotFound: when there is none
        """
        clone = self.clones.get(clone_id)
        if clone is None:
            raise NotFound(f"no clone {clone_id} is recorded", "trusted-clone.record.unknown")
        return clone

    def _end(
        self, server_id: str, attempt_id: str | None, step: Step, why: Why
    ) -> tuple[Clone, Clone] | None:
        def decide(clone: Clone, attempt: Attempt | None) -> Change | None:
            if clone.phase in (Phase.FAILED, Phase.ABORTED) or _is_others(
                clone, attempt, attempt_id
            ):
                return None
            return moves.ended(clone, attempt, step, why, self.now())

        return self.change(server_id, decide)


def require_current(clone: Clone, attempt: Attempt | None, attempt_id: str) -> None:
    """Raise unless an attempt is the one that may still become the clone.

    :raises Conflict: with the code by which a host knows that it has to end its part
    """
    if attempt is None or attempt.id != attempt_id:
        why = f": {clone.reason}" if clone.reason else ""
        raise Conflict(f"this attempt is over, the clone is {clone.phase}{why}", OVER)


def _is_others(clone: Clone, attempt: Attempt | None, attempt_id: str | None) -> bool:
    """Whether what is told of an attempt is no longer about this record: another attempt was made since."""
    if attempt_id is None or clone.phase is Phase.COMPLETE:
        return False
    return (clone.attempt_id if attempt is None else attempt.id) != attempt_id
