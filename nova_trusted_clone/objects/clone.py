"""A request for clones, each clone's record, the attempts to make it, and the freezes that it comes from."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping
from typing import Any


class Phase(enum.StrEnum):
    """How far a record is; conductor/phases.py is the table of what leads to what."""

    SCHEDULING = "scheduling"
    CLAIMED = "claimed"
    ORDERED = "ordered"
    ATTESTING = "attesting"
    FETCHING = "fetching"
    RESTORING = "restoring"
    PROVISIONAL = "provisional"
    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens."""
        return self in (Phase.COMPLETE, Phase.FAILED, Phase.ABORTED)


class GroupState(enum.StrEnum):
    """A request: its servers are not named yet, they are, or it was taken back."""

    OPEN = "open"
    REGISTERED = "registered"
    CANCELLED = "cancelled"


class FreezeState(enum.StrEnum):
    """A freeze as the conductor sees it: being ordered, handed to the source, or given up before that."""

    ORDERING = "ordering"
    STARTED = "started"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Group:
    """What a tenant asked for at once: ``count`` clones of one server.

    :ivar id: 32 hexadecimal digits
    :ivar nonce: the tenant's, in hexadecimal
    """

    id: str
    source_server: str
    source_host: str
    count: int
    vtpm: str
    memory: str
    nonce: str
    name: str
    project_id: str
    user_id: str
    created_at: datetime.datetime
    request_id: str | None = None
    state: GroupState = GroupState.OPEN


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One host's try at one server.

    :ivar id: the clone id of its order, 32 hexadecimal digits
    :ivar host: nova's name of the host; ``host_id`` is its name in certificates and the policy
    :ivar is_open: whether it may still become the clone
    :ivar order: the signed order, once there is one
    """

    id: str
    group_id: str
    server_id: str
    host: str
    host_id: str
    is_open: bool
    claimed_at: datetime.datetime
    freeze_id: str | None = None
    order: bytes | None = dataclasses.field(default=None, repr=False)
    reason: str | None = None
    code: str | None = None
    ended_at: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True)
class Freeze:
    """One instant of a source, ordered for some attempts.

    :ivar id: the freeze group of its orders, 32 hexadecimal digits
    :ivar worker: who orders it, until ``lease_until``
    """

    id: str
    group_id: str
    source_server: str
    source_host: str
    state: FreezeState
    worker: str
    lease_until: datetime.datetime
    created_at: datetime.datetime
    policy_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Clone:
    """A clone's record: one server, whatever the number of attempts.

    :ivar lineage: the source, its own source, and so on
    :ivar heard_at: when its host, or nova, last said something of it
    :ivar revision: raised by each change, so that no change is lost
    """

    id: str
    group_id: str
    name: str
    server_id: str
    source_id: str
    project_id: str
    user_id: str
    source_host: str
    phase: Phase
    vtpm: str
    memory: str
    nonce: str
    lineage: tuple[str, ...]
    created_at: datetime.datetime
    updated_at: datetime.datetime
    heard_at: datetime.datetime
    revision: int = 0
    host: str | None = None
    attempt_id: str | None = None
    freeze_id: str | None = None
    reason: str | None = None
    code: str | None = None
    progress: Mapping[str, int] = dataclasses.field(default_factory=dict)
    pause_us: int | None = None
    request_id: str | None = None
    completed_at: datetime.datetime | None = None

    def to_view(self, attempts: tuple[Attempt, ...] = ()) -> dict[str, Any]:
        """Return what is sent over RPC: plain JSON, as rpc/shapes.py says."""
        hidden = {"heard_at", "revision", "group_id"}
        view = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in hidden
        }
        view["group"] = self.group_id
        view["attempts"] = [
            {
                "attempt_id": attempt.id,
                "host": attempt.host,
                "reason": attempt.reason,
                "code": attempt.code,
                "ended_at": _plain(attempt.ended_at),
            }
            for attempt in attempts
        ]
        return view


def time_text(moment: datetime.datetime) -> str:
    """Return a UTC time as nova's API writes it."""
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return time_text(value)
    if isinstance(value, enum.StrEnum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value
