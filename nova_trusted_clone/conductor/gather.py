"""Which claims make a freeze, and when. Told what the records say and the time; no clock, no I/O, nothing kept.

    the claims of one request become one freeze when every server of it either waits in this freeze or needs none
    any more, or when ``limit_s`` has passed since the first of them. Whatever comes later makes the next freeze.

Since nothing is kept, any worker may decide at any time; which of them acts is settled by the database.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

from nova_trusted_clone.objects.clone import GroupState, Phase

MAX_BATCH = 100
"""Clones of one freeze: as many as one request may have."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A host that waits for the order of a server.

    :ivar claimed_at: seconds on any clock that all claims share
    """

    attempt_id: str
    server_id: str
    claimed_at: float


@dataclasses.dataclass(frozen=True)
class Gathering:
    """What the records say of one request.

    :ivar servers: each registered server's phase
    :ivar waiting: the open claims that are in no freeze yet
    """

    state: GroupState
    servers: tuple[tuple[str, Phase], ...]
    waiting: tuple[Claim, ...]


@dataclasses.dataclass(frozen=True)
class Decision:
    """Freeze now for ``attempts``, or look again at ``again_at``, or (neither) when something new is told.

    :ivar dismissed: claims that wait for nothing: their server is not of this request, has ended, or the request
        was taken back
    """

    attempts: tuple[str, ...] = ()
    again_at: float | None = None
    dismissed: tuple[str, ...] = ()


def decide(gathering: Gathering, now: float, limit_s: float, patience_s: float = 0.0) -> Decision:
    """Return what to do for one request.

    :param limit_s: how long the first claim waits for the others
    :param patience_s: how much longer this worker leaves it to one that is in a better position to act
    """
    if gathering.state is GroupState.OPEN:
        return Decision()  # the servers are not named yet: nobody knows whose claims these are
    phases = dict(gathering.servers)
    claims = sorted(gathering.waiting, key=lambda claim: (claim.claimed_at, claim.attempt_id))
    good = [claim for claim in claims if phases.get(claim.server_id) is Phase.CLAIMED]
    if gathering.state is GroupState.CANCELLED:
        good = []
    dismissed = _ids(claim for claim in claims if claim not in good)
    if not good:
        return Decision(dismissed=dismissed)
    ready_at = _ready_at(phases, good, limit_s) + patience_s
    if now < ready_at:
        return Decision(again_at=ready_at, dismissed=dismissed)
    return Decision(attempts=_ids(good[:MAX_BATCH]), dismissed=dismissed)


def _ready_at(phases: dict[str, Phase], good: list[Claim], limit_s: float) -> float:
    """When these claims make a freeze, as far as is known now."""
    if _missing(phases, {claim.server_id for claim in good}):
        return good[0].claimed_at + limit_s
    return max(claim.claimed_at for claim in good)


def _missing(phases: dict[str, Phase], waiting: Collection[str]) -> bool:
    """Whether a server may yet claim: one that has no host, or whose claim is not among these."""
    return any(
        phase in (Phase.SCHEDULING, Phase.CLAIMED) and server not in waiting
        for server, phase in phases.items()
    )


def _ids(claims: Iterable[Claim]) -> tuple[str, ...]:
    return tuple(claim.attempt_id for claim in claims)
