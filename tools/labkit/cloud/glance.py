"""Glance: images, in files."""

from __future__ import annotations

import pathlib
import shutil

from labkit.cloud import database, ini, settings
from labkit.cloud.nodes import Control
from labkit.cloud.service import Service, wsgi
from labkit.process import Word

PASTE = "glance-api-paste.ini"


# Nova sends a snapshot in chunks, larger than uWSGI takes by itself.
CHUNKS = ("--chunked-input-limit", str(64 << 20), "--chunked-input-timeout", "60")


def _directory(control: Control) -> pathlib.Path:
    return control.conf / "glance"


def configure(control: Control) -> None:
    """Write its configuration."""
    directory, data = _directory(control), control.data / "glance"
    stores = {
        "images": data / "images",
        "os_glance_staging_store": data / "staging",
        "os_glance_tasks_store": data / "tasks",
    }
    for place in stores.values():
        place.mkdir(parents=True)
    ini.write(
        directory / "glance-api.conf",
        {
            "DEFAULT": {"enabled_backends": "images:file", "workers": 1},
            "database": {"connection": settings.database_url("glance"), "max_pool_size": 4},
            "glance_store": {"default_backend": "images"},
            "keystone_authtoken": settings.token_check("glance"),
            "paste_deploy": {"flavor": "keystone", "config_file": directory / PASTE},
        },
        {name: {"filesystem_store_datadir": place} for name, place in stores.items()},
    )
    shutil.copy(settings.SHARED_CONFIG / "glance" / PASTE, directory / PASTE)


def make_database(control: Control) -> None:
    """Its tables."""
    manage: list[Word] = [settings.BIN / "glance-manage", "--config-file"]
    database.fill(control, [[*manage, _directory(control) / "glance-api.conf", "db_sync"]])


def service(control: Control) -> Service:
    """The API."""
    environment = {"OS_GLANCE_CONFIG_DIR": str(_directory(control))}
    module = ("--module", "glance.wsgi.api:application")
    return wsgi(control, "glance", settings.GLANCE, module, environment, further=CHUNKS)
