"""Keystone: who may do what."""

from __future__ import annotations

import base64
import os
import pathlib

from labkit.cloud import database, ini, settings
from labkit.cloud.nodes import Control
from labkit.cloud.service import Service, wsgi
from labkit.process import Word

KEY_BYTES = 32


def _directory(control: Control) -> pathlib.Path:
    return control.conf / "keystone"


def configure(control: Control) -> None:
    """Write its configuration and its keys (two repositories of Fernet keys: 0 is staged, 1 is used)."""
    directory = _directory(control)
    for repository in ("fernet-keys", "credential-keys"):
        (directory / repository).mkdir(mode=0o700, parents=True)
        for number in ("0", "1"):
            key = base64.urlsafe_b64encode(os.urandom(KEY_BYTES))
            (directory / repository / number).write_bytes(key)
    ini.write(
        directory / "keystone.conf",
        {
            "database": {"connection": settings.database_url("keystone"), "max_pool_size": 4},
            "token": {"provider": "fernet", "expiration": 86400},
            "fernet_tokens": {"key_repository": directory / "fernet-keys"},
            "fernet_receipts": {"key_repository": directory / "fernet-keys"},
            "credential": {"key_repository": directory / "credential-keys"},
            "cache": {
                "enabled": True,
                "backend": "dogpile.cache.memcached",
                "memcache_servers": settings.MEMCACHED_SERVERS,
            },
        },
    )


def make_database(control: Control) -> None:
    """Its tables, and the first user, project and endpoint."""
    manage: list[Word] = [
        settings.BIN / "keystone-manage",
        "--config-file",
        _directory(control) / "keystone.conf",
    ]
    bootstrap = ["bootstrap", "--bootstrap-password", settings.PASSWORD]
    bootstrap += ["--bootstrap-region-id", settings.REGION]
    for kind in ("admin", "public", "internal"):
        bootstrap += [f"--bootstrap-{kind}-url", settings.AUTH_URL]
    database.fill(control, [[*manage, "db_sync"], [*manage, *bootstrap]])


def service(control: Control) -> Service:
    """The API."""
    environment = {
        "OS_KEYSTONE_CONFIG_DIR": str(_directory(control)),
        "OS_KEYSTONE_CONFIG_FILES": str(_directory(control) / "keystone.conf"),
    }
    module = ("--module", "keystone.wsgi.api:application")
    return wsgi(control, "keystone", settings.KEYSTONE, module, environment)
