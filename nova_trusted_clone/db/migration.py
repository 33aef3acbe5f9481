"""Bringing the schema to a version: alembic, without a file of its own to configure."""

from __future__ import annotations

import pathlib
from typing import Any

from alembic import command, config, script
from alembic.runtime import migration

SCRIPTS = pathlib.Path(__file__).parent / "migrations"


def sync(engine: Any, version: str = "head") -> None:
    """Migrate to ``version``; only forwards."""
    with engine.begin() as connection:
        settings = _config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, version)


def version(engine: Any) -> str | None:
    """Return the schema's version; None for a database without one."""
    with engine.connect() as connection:
        found: str | None = migration.MigrationContext.configure(connection).get_current_revision()
    return found


def newest() -> str:
    """Return the version that this release needs."""
    head = script.ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _config() -> config.Config:
    settings = config.Config()
    settings.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings
