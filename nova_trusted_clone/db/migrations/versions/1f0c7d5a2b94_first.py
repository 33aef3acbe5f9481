"""The first schema: groups, clones, freezes, attempts, evidence, policies.

Revision ID: 1f0c7d5a2b94
Revises:
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "1f0c7d5a2b94"
down_revision = None
branch_labels = None
depends_on = None

# As they were at this revision, whatever the models say today.
_MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_BLOB = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "clone_groups",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("source_server", sa.String(length=36), nullable=False),
        sa.Column("source_host", sa.String(length=255), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("vtpm", sa.String(length=16), nullable=False),
        sa.Column("memory", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **_OPTIONS,
    )
    op.create_index("clone_groups_source_idx", "clone_groups", ["source_server"])
    op.create_index("clone_groups_state_idx", "clone_groups", ["state", "created_at"])
    op.create_table(
        "policies",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("body", _BLOB, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
        **_OPTIONS,
    )
    op.create_table(
        "clones",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("group_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("server_id", sa.String(length=36), nullable=False),
        sa.Column("source_id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("source_host", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("code", sa.String(length=80), nullable=True),
        sa.Column("vtpm", sa.String(length=16), nullable=False),
        sa.Column("memory", sa.String(length=16), nullable=False),
        sa.Column("nonce", sa.String(length=128), nullable=False),
        sa.Column("attempt_id", sa.String(length=32), nullable=True),
        sa.Column("freeze_id", sa.String(length=32), nullable=True),
        sa.Column("lineage", sa.Text(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("pause_us", sa.BigInteger(), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("heard_at", _MOMENT, nullable=False),
        sa.Column("completed_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["clone_groups.id"], name="fk_clones_group"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("server_id", name="uniq_clones0server_id"),
        **_OPTIONS,
    )
    op.create_index("clones_group_idx", "clones", ["group_id"])
    op.create_index("clones_phase_idx", "clones", ["phase", "heard_at"])
    op.create_index("clones_project_idx", "clones", ["project_id", "created_at"])
    op.create_index("clones_source_idx", "clones", ["source_id"])
    op.create_table(
        "freezes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("group_id", sa.String(length=32), nullable=False),
        sa.Column("source_server", sa.String(length=36), nullable=False),
        sa.Column("source_host", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("lease_until", _MOMENT, nullable=False),
        sa.Column("policy_sha256", sa.String(length=64), nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["clone_groups.id"], name="fk_freezes_group"),
        sa.PrimaryKeyConstraint("id"),
        **_OPTIONS,
    )
    op.create_index("freezes_group_idx", "freezes", ["group_id"])
    op.create_index("freezes_state_idx", "freezes", ["state", "lease_until"])
    op.create_table(
        "attempts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("group_id", sa.String(length=32), nullable=False),
        sa.Column("server_id", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("host_id", sa.String(length=63), nullable=False),
        sa.Column("is_open", sa.SmallInteger(), nullable=True),
        sa.Column("freeze_id", sa.String(length=32), nullable=True),
        sa.Column("signed_order", _BLOB, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("code", sa.String(length=80), nullable=True),
        sa.Column("claimed_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["freeze_id"], ["freezes.id"], name="fk_attempts_freeze"),
        sa.ForeignKeyConstraint(["group_id"], ["clone_groups.id"], name="fk_attempts_group"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("server_id", "is_open", name="uniq_attempts0server_id0is_open"),
        **_OPTIONS,
    )
    op.create_index("attempts_freeze_idx", "attempts", ["freeze_id"])
    op.create_index("attempts_group_idx", "attempts", ["group_id"])
    op.create_table(
        "evidence",
        sa.Column("clone_id", sa.String(length=36), nullable=False),
        sa.Column("attempt_id", sa.String(length=32), nullable=False),
        sa.Column("policy_sha256", sa.String(length=64), nullable=False),
        sa.Column("body", _BLOB, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["clone_id"], ["clones.id"], name="fk_evidence_clone"),
        sa.PrimaryKeyConstraint("clone_id"),
        **_OPTIONS,
    )
