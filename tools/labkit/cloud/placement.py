"""Placement: which host has room, and which can clone."""

from __future__ import annotations

import pathlib

from labkit.cloud import database, ini, settings
from labkit.cloud.nodes import Control
from labkit.cloud.service import Service, wsgi
from labkit.process import Word


def _directory(control: Control) -> pathlib.Path:
    return control.conf / "placement"


def configure(control: Control) -> None:
    """Write its configuration."""
    ini.write(
        _directory(control) / "placement.conf",
        {
            "api": {"auth_strategy": "keystone"},
            "placement_database": {
                "connection": settings.database_url("placement"),
                "max_pool_size": 4,
            },
            "keystone_authtoken": settings.token_check("placement"),
        },
    )


def make_database(control: Control) -> None:
    """Its tables."""
    manage: list[Word] = [settings.BIN / "placement-manage", "--config-file"]
    database.fill(control, [[*manage, _directory(control) / "placement.conf", "db", "sync"]])


def service(control: Control) -> Service:
    """The API."""
    environment = {"OS_PLACEMENT_CONFIG_DIR": str(_directory(control))}
    module = ("--module", "placement.wsgi.api:application")
    return wsgi(control, "placement", settings.PLACEMENT, module, environment)
