"""Removing old records: an operator's act, never done by itself."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import orm

from nova_trusted_clone.db import models
from nova_trusted_clone.db.engine import Database
from nova_trusted_clone.objects.clone import Phase

ENDED = [phase.value for phase in Phase if phase.ended]
AT_ONCE = 500
"""Rows of one transaction: long ones hold up the service."""


@dataclasses.dataclass(frozen=True)
class Purged:
    """How many rows went."""

    clones: int
    groups: int
    policies: int


def purge(database: Database, before: datetime.datetime) -> Purged:
    """Remove records that ended before a time, with their evidence, then groups and policies that nothing names
    any more.
    """
    clones = _repeat(database, lambda session: _purge_clones(session, before))
    groups = _repeat(database, lambda session: _purge_groups(session, before))
    return Purged(clones, groups, database.write(lambda session: _purge_policies(session, before)))


def _repeat(database: Database, step: Callable[[orm.Session], int]) -> int:
    total = 0
    while True:
        count = database.write(step)
        total += count
        if count < AT_ONCE:
            return total


def _purge_clones(session: orm.Session, before: datetime.datetime) -> int:
    record = models.CloneRecord
    query = sa.select(record.id, record.server_id).where(
        record.phase.in_(ENDED), record.updated_at < before
    )
    found = session.execute(query.limit(AT_ONCE)).all()
    ids, servers = [row.id for row in found], [row.server_id for row in found]
    evidence, attempt = models.EvidenceRecord, models.AttemptRecord
    session.execute(sa.delete(evidence).where(evidence.clone_id.in_(ids)))
    session.execute(sa.delete(attempt).where(attempt.server_id.in_(servers)))
    session.execute(sa.delete(record).where(record.id.in_(ids)))
    return len(ids)


def _purge_groups(session: orm.Session, before: datetime.datetime) -> int:
    group, record = models.GroupRecord, models.CloneRecord
    attempt, freeze = models.AttemptRecord, models.FreezeRecord
    query = sa.select(group.id).where(
        group.created_at < before,
        ~sa.exists().where(record.group_id == group.id),
        ~sa.exists().where(attempt.group_id == group.id, attempt.is_open == 1),
    )
    ids = list(session.scalars(query.limit(AT_ONCE)))
    session.execute(sa.delete(attempt).where(attempt.group_id.in_(ids)))
    session.execute(sa.delete(freeze).where(freeze.group_id.in_(ids)))
    source = models.SourceRecord
    session.execute(sa.delete(source).where(source.group_id.in_(ids)))
    session.execute(sa.delete(group).where(group.id.in_(ids)))
    return len(ids)


def _purge_policies(session: orm.Session, before: datetime.datetime) -> int:
    policy, evidence, freeze = models.PolicyRecord, models.EvidenceRecord, models.FreezeRecord
    query = sa.select(policy.sha256).where(
        policy.created_at < before,
        ~sa.exists().where(evidence.policy_sha256 == policy.sha256),
        ~sa.exists().where(freeze.policy_sha256 == policy.sha256),
    )
    digests = list(session.scalars(query))
    session.execute(sa.delete(policy).where(policy.sha256.in_(digests)))
    return len(digests)
