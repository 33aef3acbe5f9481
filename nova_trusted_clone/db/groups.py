"""Groups and their servers: opened, named, claimed by hosts, taken back."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy import orm

from nova_trusted_clone.db import models, rows
from nova_trusted_clone.db.engine import Database, reading, writing
from nova_trusted_clone.objects.clone import Attempt, Clone, Group, GroupState, Phase

Record, AttemptRow, GroupRow = models.CloneRecord, models.AttemptRecord, models.GroupRecord
SourceRow = models.SourceRecord
UNENDED = [phase.value for phase in Phase if not phase.ended]


@dataclasses.dataclass(frozen=True)
class Situation:
    """What there is when a host claims a server.

    :ivar clone: None while the server is not registered
    :ivar attempt: the server's open attempt
    :ivar attempts: how many the group has had
    """

    group: Group | None
    clone: Clone | None
    attempt: Attempt | None
    attempts: int


@dataclasses.dataclass(frozen=True)
class Claiming:
    """What to do about a claim.

    :ivar attempt: the one that counts: the open one, or a new one
    :ivar clone: the record as it becomes
    :ivar ended: the former attempt with its reason, when another host had claimed before
    """

    attempt: Attempt
    clone: Clone | None = None
    ended: Attempt | None = None


class NotOfThisGroup(Exception):
    """Servers that cannot be a group's; the text says why."""


class SourceBusy(Exception):
    """A server that is being cloned for another request; the text says how far that is."""


class Groups:
    """The groups of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @writing
    def begin(self, session: orm.Session, group: Group) -> Group:
        """Open a group, or return the one that has this id.

        :raises SourceBusy: when its source is being cloned for another; of two at the same moment, one is
        """
        # The source first: where it was taken for this very group meanwhile, the group is seen then, whatever the isolation.
        taken = session.get(SourceRow, group.source_server)
        row = session.get(GroupRow, group.id)
        if row is not None:
            return rows.to_group(row)
        _take_source(session, group, taken)
        session.add(rows.from_group(group))
        return group

    @reading
    def get(self, session: orm.Session, group_id: str) -> Group | None:
        """Return a group."""
        row = session.get(GroupRow, group_id)
        return None if row is None else rows.to_group(row)

    @writing
    def register(
        self,
        session: orm.Session,
        group_id: str,
        clones: Sequence[Clone],
        most: int,
        claimed: Callable[[Clone, Attempt], Clone],
    ) -> list[Clone]:
        """Add records, except those whose server has one; join the claims that came before.

        :param most: how many records the group may have
        :param claimed: returns a clone's record with an attempt
        :returns: the records of these servers, in order
        :raises NotOfThisGroup: when a server is another group's, or there are more than ``most``; nothing is added
        """
        group = session.get_one(GroupRow, group_id)
        if group.state == GroupState.OPEN:
            group.state = GroupState.REGISTERED.value
        found = []
        for clone in clones:
            row = session.scalar(sa.select(Record).where(Record.server_id == clone.server_id))
            if row is None:
                attempt = _open_attempt(session, clone.server_id)
                joins = attempt is not None and attempt.group_id == group_id
                row = rows.from_clone(claimed(clone, attempt) if joins and attempt else clone)
                session.add(row)
                session.flush()
            if row.group_id != group_id:
                raise NotOfThisGroup(f"server {clone.server_id} is a clone of another group")
            found.append(rows.to_clone(row))
        count = sa.select(sa.func.count()).select_from(Record).where(Record.group_id == group_id)
        if (session.scalar(count) or 0) > most:
            raise NotOfThisGroup(f"more servers than the {most} that were asked for")
        return found

    @writing
    def claim(
        self,
        session: orm.Session,
        group_id: str,
        server_id: str,
        judge: Callable[[Situation], Claiming],
    ) -> Claiming:
        """Record a host's claim; ``judge`` says what it means, or raises."""
        situation = _situation(session, group_id, server_id)
        claiming = judge(situation)
        if claiming.ended is not None:
            close_attempt(session, claiming.ended)
            session.flush()  # the unique key has room for one open attempt
        if situation.attempt is None or claiming.attempt.id != situation.attempt.id:
            session.add(rows.from_attempt(claiming.attempt))
        if claiming.clone is not None:
            record = session.scalar(sa.select(Record).where(Record.server_id == server_id))
            assert record is not None
            rows.apply(claiming.clone, record)
        return claiming

    @writing
    def cancel(self, session: orm.Session, group_id: str) -> Group | None:
        """Let a group take no more claims; return it as it was."""
        row = session.get(GroupRow, group_id)
        if row is None:
            return None
        before = rows.to_group(row)
        row.state = GroupState.CANCELLED.value
        return before

    @writing
    def close(
        self, session: orm.Session, attempt_id: str, reason: str, code: str, now: datetime.datetime
    ) -> None:
        """End an attempt that has no record."""
        row = session.get(AttemptRow, attempt_id)
        if row is not None:
            ended = dataclasses.replace(
                rows.to_attempt(row), reason=reason, code=code, ended_at=now
            )
            close_attempt(session, ended)

    @reading
    def unnamed_since(self, session: orm.Session, before: datetime.datetime) -> list[Group]:
        """Return groups whose servers were never named."""
        query = sa.select(GroupRow).where(
            GroupRow.state == GroupState.OPEN, GroupRow.created_at < before
        )
        return [rows.to_group(row) for row in session.scalars(query.limit(100))]


def _take_source(session: orm.Session, group: Group, taken: SourceRow | None) -> None:
    """Make a group the one that its source is cloned for, instead of the one that it was ``taken`` for.

    Of two that do so at once, one finds its insert or update in vain, is repeated, and then sees the other's.
    """
    if taken is None:
        session.add(SourceRow(server_id=group.source_server, group_id=group.id))
        session.flush()
    else:
        _require_over(session, taken.group_id)
        taken.group_id = group.id
    _require_cloned(session, group.source_server)


def _require_over(session: orm.Session, group_id: str) -> None:
    """One whose servers are not named yet may still get some."""
    former = session.get(GroupRow, group_id)
    if former is not None and former.state == GroupState.OPEN:
        raise SourceBusy("another request for clones of it is being taken up at this moment")


def _require_cloned(session: orm.Session, server_id: str) -> None:
    query = sa.select(Record).where(Record.source_id == server_id, Record.phase.in_(UNENDED))
    row = session.scalars(query.limit(1)).first()
    if row is not None:
        raise SourceBusy(f"clone {row.id} is {row.phase}")


def close_attempt(session: orm.Session, ended: Attempt) -> None:
    """End an attempt with its reason; one that has ended keeps its first."""
    row = session.get(AttemptRow, ended.id)
    if row is not None and row.is_open is not None:
        row.is_open = None
        row.reason, row.code, row.ended_at = ended.reason, ended.code, ended.ended_at


def _open_attempt(session: orm.Session, server_id: str) -> Attempt | None:
    query = sa.select(AttemptRow).where(AttemptRow.server_id == server_id, AttemptRow.is_open == 1)
    row = session.scalar(query)
    return None if row is None else rows.to_attempt(row)


def _situation(session: orm.Session, group_id: str, server_id: str) -> Situation:
    group = session.get(GroupRow, group_id)
    record = session.scalar(sa.select(Record).where(Record.server_id == server_id))
    count = (
        sa.select(sa.func.count()).select_from(AttemptRow).where(AttemptRow.group_id == group_id)
    )
    return Situation(
        group=None if group is None else rows.to_group(group),
        clone=None if record is None else rows.to_clone(record),
        attempt=_open_attempt(session, server_id),
        attempts=session.scalar(count) or 0,
    )
