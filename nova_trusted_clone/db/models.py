"""The tables.

``clones.server_id`` is unique: one record for a server. ``attempts`` has one open row for a server, by a unique
key of which ``is_open`` is part: 1 while it is open, NULL (which no database counts as equal) when it has ended.
``sources`` has one row for a server that was ever cloned: two requests that begin at the same moment meet there.
``revision`` makes an update one that found what it expected, or none (SQLAlchemy's version_id_col).
"""

from __future__ import annotations

import datetime

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql

MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
"""UTC, with microseconds: order matters within a second."""

BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
"""16 MiB in MySQL; evidence is 4 MiB at most before it is compressed."""

TABLE_OPTIONS = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


class Base(orm.DeclarativeBase):
    """Root of the models."""


class GroupRecord(Base):
    """One request of a tenant: clones that are made together."""

    __tablename__ = "clone_groups"
    __table_args__ = (
        sa.Index("clone_groups_source_idx", "source_server"),
        sa.Index("clone_groups_state_idx", "state", "created_at"),
        TABLE_OPTIONS,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(32), primary_key=True)
    source_server: orm.Mapped[str] = orm.mapped_column(sa.String(36))
    source_host: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    count: orm.Mapped[int] = orm.mapped_column(sa.Integer)
    vtpm: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    memory: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    nonce: orm.Mapped[str] = orm.mapped_column(sa.String(128))
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    user_id: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    request_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    state: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    created_at: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)
    revision: orm.Mapped[int] = orm.mapped_column(sa.Integer)
    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012


class SourceRecord(Base):
    """The last request that a server was cloned for. No foreign key: a request may be removed before its source."""

    __tablename__ = "sources"
    __table_args__ = (TABLE_OPTIONS,)

    server_id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True)
    group_id: orm.Mapped[str] = orm.mapped_column(sa.String(32))
    revision: orm.Mapped[int] = orm.mapped_column(sa.Integer)
    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012


class CloneRecord(Base):
    """One clone."""

    __tablename__ = "clones"
    __table_args__ = (
        sa.UniqueConstraint("server_id", name="uniq_clones0server_id"),
        sa.Index("clones_source_idx", "source_id"),
        sa.Index("clones_project_idx", "project_id", "created_at"),
        sa.Index("clones_group_idx", "group_id"),
        sa.Index("clones_phase_idx", "phase", "heard_at"),
        TABLE_OPTIONS,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(36), primary_key=True)
    group_id: orm.Mapped[str] = orm.mapped_column(
        sa.ForeignKey("clone_groups.id", name="fk_clones_group")
    )
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    server_id: orm.Mapped[str] = orm.mapped_column(sa.String(36))
    source_id: orm.Mapped[str] = orm.mapped_column(sa.String(36))
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    user_id: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    source_host: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    host: orm.Mapped[str | None] = orm.mapped_column(sa.String(255))
    phase: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    reason: orm.Mapped[str | None] = orm.mapped_column(sa.Text)
    code: orm.Mapped[str | None] = orm.mapped_column(sa.String(80))
    vtpm: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    memory: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    nonce: orm.Mapped[str] = orm.mapped_column(sa.String(128))
    attempt_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(32))
    freeze_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(32))
    lineage: orm.Mapped[str] = orm.mapped_column(sa.Text)
    progress: orm.Mapped[str | None] = orm.mapped_column(sa.Text)
    pause_us: orm.Mapped[int | None] = orm.mapped_column(sa.BigInteger)
    request_id: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    revision: orm.Mapped[int] = orm.mapped_column(sa.Integer)
    created_at: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)
    updated_at: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)
    heard_at: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)
    completed_at: orm.Mapped[datetime.datetime | None] = orm.mapped_column(MOMENT)
    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012


class FreezeRecord(Base):
    """One freeze."""

    __tablename__ = "freezes"
    __table_args__ = (
        sa.Index("freezes_group_idx", "group_id"),
        sa.Index("freezes_state_idx", "state", "lease_until"),
        TABLE_OPTIONS,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(32), primary_key=True)
    group_id: orm.Mapped[str] = orm.mapped_column(
        sa.ForeignKey("clone_groups.id", name="fk_freezes_group")
    )
    source_server: orm.Mapped[str] = orm.mapped_column(sa.String(36))
    source_host: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    state: orm.Mapped[str] = orm.mapped_column(sa.String(16))
    worker: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    lease_until: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)
    policy_sha256: orm.Mapped[str | None] = orm.mapped_column(sa.String(64))
    created_at: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)
    revision: orm.Mapped[int] = orm.mapped_column(sa.Integer)
    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012


class AttemptRecord(Base):
    """One host's try at one server."""

    __tablename__ = "attempts"
    __table_args__ = (
        sa.UniqueConstraint("server_id", "is_open", name="uniq_attempts0server_id0is_open"),
        sa.Index("attempts_group_idx", "group_id"),
        sa.Index("attempts_freeze_idx", "freeze_id"),
        TABLE_OPTIONS,
    )

    id: orm.Mapped[str] = orm.mapped_column(sa.String(32), primary_key=True)
    group_id: orm.Mapped[str] = orm.mapped_column(
        sa.ForeignKey("clone_groups.id", name="fk_attempts_group")
    )
    server_id: orm.Mapped[str] = orm.mapped_column(sa.String(36))
    host: orm.Mapped[str] = orm.mapped_column(sa.String(255))
    host_id: orm.Mapped[str] = orm.mapped_column(sa.String(63))
    is_open: orm.Mapped[int | None] = orm.mapped_column(sa.SmallInteger)
    freeze_id: orm.Mapped[str | None] = orm.mapped_column(
        sa.ForeignKey("freezes.id", name="fk_attempts_freeze")
    )
    signed_order: orm.Mapped[bytes | None] = orm.mapped_column(BLOB, deferred=True)
    reason: orm.Mapped[str | None] = orm.mapped_column(sa.Text)
    code: orm.Mapped[str | None] = orm.mapped_column(sa.String(80))
    claimed_at: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)
    ended_at: orm.Mapped[datetime.datetime | None] = orm.mapped_column(MOMENT)
    revision: orm.Mapped[int] = orm.mapped_column(sa.Integer)
    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012


class EvidenceRecord(Base):
    """Evidence as it was verified: JSON text, compressed by zlib."""

    __tablename__ = "evidence"
    __table_args__ = (TABLE_OPTIONS,)

    clone_id: orm.Mapped[str] = orm.mapped_column(
        sa.ForeignKey("clones.id", name="fk_evidence_clone"), primary_key=True
    )
    attempt_id: orm.Mapped[str] = orm.mapped_column(sa.String(32))
    policy_sha256: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    body: orm.Mapped[bytes] = orm.mapped_column(BLOB)
    created_at: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)


class PolicyRecord(Base):
    """A policy file that an order named, compressed: what the evidence of that time is verified against."""

    __tablename__ = "policies"
    __table_args__ = (TABLE_OPTIONS,)

    sha256: orm.Mapped[str] = orm.mapped_column(sa.String(64), primary_key=True)
    body: orm.Mapped[bytes] = orm.mapped_column(BLOB)
    created_at: orm.Mapped[datetime.datetime] = orm.mapped_column(MOMENT)
