"""Freezes: taken by one worker, ordered step by step, taken up by another when the first was killed."""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import orm

from nova_trusted_clone.db import models, rows
from nova_trusted_clone.db.engine import Database, reading, writing
from nova_trusted_clone.objects.clone import Attempt, Clone, Freeze, FreezeState, Group

Record, AttemptRow, FreezeRow = models.CloneRecord, models.AttemptRecord, models.FreezeRecord
PolicyRow = models.PolicyRecord


class Freezes:
    """The freezes of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @reading
    def waiting_groups(self, session: orm.Session) -> list[str]:
        """Return the groups that have a claim which is in no freeze."""
        query = sa.select(AttemptRow.group_id).distinct()
        query = query.where(AttemptRow.is_open == 1, AttemptRow.freeze_id.is_(None))
        return list(session.scalars(query.limit(1000)))

    @reading
    def gathering(
        self, session: orm.Session, group_id: str
    ) -> tuple[Group, list[Clone], list[Attempt]] | None:
        """Return a group, its records, and its open claims that are in no freeze."""
        group = session.get(models.GroupRecord, group_id)
        if group is None:
            return None
        clones = session.scalars(sa.select(Record).where(Record.group_id == group_id))
        waiting = session.scalars(
            sa.select(AttemptRow).where(
                AttemptRow.group_id == group_id,
                AttemptRow.is_open == 1,
                AttemptRow.freeze_id.is_(None),
            )
        )
        return (
            rows.to_group(group),
            [rows.to_clone(row) for row in clones],
            [rows.to_attempt(row) for row in waiting],
        )

    @writing
    def take(self, session: orm.Session, freeze: Freeze, attempts: Sequence[str]) -> bool:
        """Make a freeze of these claims; False, and nothing happens, unless all of them still wait."""
        found = session.scalars(
            sa.select(AttemptRow).where(
                AttemptRow.id.in_(attempts),
                AttemptRow.is_open == 1,
                AttemptRow.freeze_id.is_(None),
            )
        ).all()
        if len(found) != len(attempts):
            return False
        session.add(rows.from_freeze(freeze))
        session.flush()
        for row in found:
            row.freeze_id = freeze.id
        return True

    @reading
    def get(self, session: orm.Session, freeze_id: str) -> tuple[Freeze, list[Attempt]] | None:
        """Return a freeze and its attempts with their orders."""
        row = session.get(FreezeRow, freeze_id)
        if row is None:
            return None
        query = (
            sa.select(AttemptRow).where(AttemptRow.freeze_id == freeze_id).order_by(AttemptRow.id)
        )
        attempts = session.scalars(query.options(orm.undefer(AttemptRow.signed_order)))
        return rows.to_freeze(row), [rows.to_attempt(row, with_order=True) for row in attempts]

    @writing
    def save_orders(
        self,
        session: orm.Session,
        freeze: Freeze,
        orders: Mapping[str, bytes],
        policy: tuple[str, bytes],
        ordered: Callable[[Clone, Attempt], Clone | None],
    ) -> list[Attempt]:
        """Keep the orders of a freeze, the policy that they name, and move the records on.

        :param orders: signed orders by attempt
        :param policy: SHA-256 in hexadecimal, and the file
        :param ordered: returns a record as it becomes; None when it is past that, and then its order is not kept
        :returns: the attempts that have an order now
        """
        sha256, body = policy
        moment = freeze.created_at
        if session.get(PolicyRow, sha256) is None:
            session.add(PolicyRow(sha256=sha256, body=zlib.compress(body), created_at=moment))
        session.get_one(FreezeRow, freeze.id).policy_sha256 = sha256
        kept = []
        for attempt_id, order in orders.items():
            row = session.get_one(AttemptRow, attempt_id)
            record = session.scalar(sa.select(Record).where(Record.server_id == row.server_id))
            attempt = rows.to_attempt(row)
            after = ordered(rows.to_clone(record), attempt) if record and attempt.is_open else None
            if record is None or after is None:
                continue
            rows.apply(after, record)
            row.signed_order = order
            kept.append(rows.to_attempt(row, with_order=True))
        return kept

    @writing
    def hold(
        self,
        session: orm.Session,
        freeze_id: str,
        worker: str,
        until: datetime.datetime,
        *,
        instead_of: tuple[str, datetime.datetime] | None = None,
    ) -> bool:
        """Go on holding a freeze that is being ordered; False when it is another's, or is ordered.

        :param instead_of: take it over from this worker, whose lease ended then
        """
        row = session.get(FreezeRow, freeze_id)
        if row is None or row.state != FreezeState.ORDERING:
            return False
        if instead_of is not None and (row.worker, row.lease_until) != instead_of:
            return False
        if instead_of is None and row.worker != worker:
            return False
        row.worker, row.lease_until = worker, until
        return True

    @writing
    def close(self, session: orm.Session, freeze_id: str, state: FreezeState) -> None:
        """Say how the ordering of a freeze ended."""
        row = session.get_one(FreezeRow, freeze_id)
        if row.state == FreezeState.ORDERING:
            row.state = state.value

    @reading
    def being_ordered(self, session: orm.Session) -> list[Freeze]:
        """Return the freezes in mid ordering."""
        query = sa.select(FreezeRow).where(FreezeRow.state == FreezeState.ORDERING)
        return [rows.to_freeze(row) for row in session.scalars(query.limit(1000))]

    @reading
    def policy(self, session: orm.Session, sha256: str) -> bytes | None:
        """Return a policy file that an order named."""
        row = session.get(PolicyRow, sha256)
        return None if row is None else zlib.decompress(row.body)
