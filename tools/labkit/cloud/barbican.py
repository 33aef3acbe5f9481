"""Barbican: the keys of servers' vTPM state."""

from __future__ import annotations

import base64
import os
import pathlib
import shutil

from labkit.cloud import database, ini, settings
from labkit.cloud.nodes import Control
from labkit.cloud.service import Service, wsgi
from labkit.process import Word

PASTE = "barbican-api-paste.ini"
KEK_BYTES = 32
# barbican.wsgi.api looks for its pipeline below /etc and nowhere else.
SCRIPT = """\
from paste import deploy

application = deploy.loadapp("config:{paste}")
"""


def _directory(control: Control) -> pathlib.Path:
    return control.conf / "barbican"


def _home(control: Control) -> dict[str, str]:
    """It finds its configuration in the home directory, at ~/.barbican/barbican.conf."""
    return {"HOME": str(_directory(control))}


def configure(control: Control) -> None:
    """Write its configuration and the key of all keys."""
    directory = _directory(control)
    kek = base64.b64encode(os.urandom(KEK_BYTES)).decode()
    ini.write(
        directory / ".barbican" / "barbican.conf",
        {
            "DEFAULT": {
                "host_href": f"http://{settings.CONTROL}:{settings.BARBICAN}",
                "db_auto_create": False,
            },
            "database": {"connection": settings.database_url("barbican"), "max_pool_size": 4},
            "secretstore": {"enabled_secretstore_plugins": "store_crypto"},
            "crypto": {"enabled_crypto_plugins": "simple_crypto"},
            "simple_crypto_plugin": {"kek": kek},
            "queue": {"enable": False},
            "keystone_authtoken": settings.token_check("barbican"),
        },
    )
    shutil.copy(settings.SHARED_CONFIG / "barbican" / PASTE, directory / PASTE)
    (directory / "api.py").write_text(SCRIPT.format(paste=directory / PASTE))


def make_database(control: Control) -> None:
    """Its tables."""
    manage: list[Word] = [settings.BIN / "barbican-manage", "db", "upgrade"]
    database.fill(control, [manage], **_home(control))


def service(control: Control) -> Service:
    """The API."""
    script = ("--wsgi-file", str(_directory(control) / "api.py"))
    return wsgi(control, "barbican", settings.BARBICAN, script, _home(control), threads=4)
