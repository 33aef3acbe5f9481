"""Clone records: read, listed, and moved by whoever sees them as they are."""

from __future__ import annotations

import dataclasses
import datetime
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from nova_trusted_clone.db import models, rows
from nova_trusted_clone.db.engine import Database, reading, writing
from nova_trusted_clone.db.groups import close_attempt
from nova_trusted_clone.objects.clone import Attempt, Clone, Phase

Record, AttemptRow, EvidenceRow = models.CloneRecord, models.AttemptRecord, models.EvidenceRecord

MOST_LISTED = 1000
UNENDED = [phase.value for phase in Phase if not phase.ended]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Evidence that was verified, and against which policy."""

    attempt_id: str
    policy_sha256: str
    content: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Change:
    """A record as it becomes, and what becomes so with it.

    :ivar ended: an attempt with its reason
    """

    clone: Clone
    ended: Attempt | None = None
    evidence: Evidence | None = None


Decide = Callable[[Clone, Attempt | None], Change | None]


class Clones:
    """The clone records of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @reading
    def get(self, session: orm.Session, clone_id: str) -> Clone | None:
        """Return a record by its id."""
        row = session.get(Record, clone_id)
        return None if row is None else rows.to_clone(row)

    @reading
    def by_server(self, session: orm.Session, server_id: str) -> Clone | None:
        """Return the record of a clone's server."""
        row = session.scalar(sa.select(Record).where(Record.server_id == server_id))
        return None if row is None else rows.to_clone(row)

    @reading
    def attempt(self, session: orm.Session, attempt_id: str) -> Attempt | None:
        """Return an attempt with its order."""
        row = session.get(AttemptRow, attempt_id)
        return None if row is None else rows.to_attempt(row, with_order=True)

    @reading
    def attempts(self, session: orm.Session, servers: list[str]) -> dict[str, tuple[Attempt, ...]]:
        """Return every attempt at these servers, oldest first, by server."""
        query = sa.select(AttemptRow).where(AttemptRow.server_id.in_(servers))
        found: dict[str, tuple[Attempt, ...]] = {}
        for row in session.scalars(query.order_by(AttemptRow.claimed_at, AttemptRow.id)):
            found[row.server_id] = (*found.get(row.server_id, ()), rows.to_attempt(row))
        return found

    @reading
    def matching(self, session: orm.Session, filters: Mapping[str, Any]) -> list[Clone]:
        """Return records, newest first.

        :param filters: server, project_id, source_server, group, phase, limit, marker; None counts as absent
        """
        query = sa.select(Record).order_by(Record.created_at.desc(), Record.id.desc())
        given = {name: value for name, value in filters.items() if value is not None}
        if "server" in given:
            query = query.where(
                sa.or_(Record.server_id == given["server"], Record.source_id == given["server"])
            )
        columns = {
            "project_id": Record.project_id,
            "source_server": Record.source_id,
            "group": Record.group_id,
            "phase": Record.phase,
        }
        for name, column in columns.items():
            if name in given:
                query = query.where(column == given[name])
        if "marker" in given:
            query = _after(session, query, given["marker"])
        limit = min(given.get("limit", MOST_LISTED), MOST_LISTED)
        return [rows.to_clone(row) for row in session.scalars(query.limit(limit))]

    @reading
    def unended(self, session: orm.Session, heard_before: datetime.datetime) -> list[Clone]:
        """Return records that are not at their end and of which nothing was heard since, the most silent first."""
        query = sa.select(Record).where(Record.phase.in_(UNENDED), Record.heard_at < heard_before)
        found = session.scalars(query.order_by(Record.heard_at).limit(MOST_LISTED))
        return [rows.to_clone(row) for row in found]

    @writing
    def change(
        self, session: orm.Session, server_id: str, decide: Decide
    ) -> tuple[Clone, Clone] | None:
        """Change a record as ``decide`` says, which sees it and its open attempt as they are; it may be asked
        again when another
        was quicker.

        :returns: the record before and after; None when ``decide`` wants no change, or there is no record
        """
        row = session.scalar(sa.select(Record).where(Record.server_id == server_id))
        if row is None:
            return None
        before = rows.to_clone(row)
        open_row = session.scalar(
            sa.select(AttemptRow).where(AttemptRow.server_id == server_id, AttemptRow.is_open == 1)
        )
        change = decide(before, rows.to_attempt(open_row) if open_row else None)
        if change is None:
            return None
        rows.apply(change.clone, row)
        if change.ended is not None:
            close_attempt(session, change.ended)
        if change.evidence is not None:
            session.merge(_evidence_row(before.id, change))
        return before, change.clone

    @reading
    def evidence(self, session: orm.Session, clone_id: str) -> Evidence | None:
        """Return a clone's evidence."""
        row = session.get(EvidenceRow, clone_id)
        if row is None:
            return None
        content = json.loads(zlib.decompress(row.body))
        return Evidence(row.attempt_id, row.policy_sha256, content)


def _evidence_row(clone_id: str, change: Change) -> models.EvidenceRecord:
    evidence = change.evidence
    assert evidence is not None
    return EvidenceRow(
        clone_id=clone_id,
        attempt_id=evidence.attempt_id,
        policy_sha256=evidence.policy_sha256,
        body=zlib.compress(json.dumps(evidence.content, sort_keys=True).encode(), 6),
        created_at=change.clone.updated_at,
    )


def _after(session: orm.Session, query: sa.Select[Any], marker: str) -> sa.Select[Any]:
    row = session.get(Record, marker)
    if row is None:
        return query.where(sa.false())
    older = sa.and_(Record.created_at == row.created_at, Record.id < row.id)
    return query.where(sa.or_(Record.created_at < row.created_at, older))
