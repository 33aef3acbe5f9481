"""Which request a source is being cloned for.

Revision ID: 8e4a60b7c3d1
Revises: 1f0c7d5a2b94
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "8e4a60b7c3d1"
down_revision = "1f0c7d5a2b94"
branch_labels = None
depends_on = None

# As they were at this revision, whatever the models say today.
_OPTIONS: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "sources",
        sa.Column("server_id", sa.String(length=36), nullable=False),
        sa.Column("group_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("server_id"),
        **_OPTIONS,
    )
