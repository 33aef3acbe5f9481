"""MariaDB: one server for every service's database."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from labkit import process
from labkit.cloud import settings
from labkit.cloud.nodes import Control
from labkit.cloud.service import Service, base_environment, listens
from labkit.process import Words

NAMES = (
    "keystone",
    "placement",
    "glance",
    "barbican",
    "neutron",
    "nova_api",
    "nova_cell0",
    "nova_cell1",
    "trusted_clone",
)
SYNC_LIMIT_S = 300.0
# A lab's databases live as long as the lab: nothing is written through, little is kept in memory.
OPTIONS = (
    "--innodb-buffer-pool-size=192M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--sync-binlog=0",
    "--skip-log-bin",
    "--performance-schema=off",
    "--max-connections=400",
    "--skip-name-resolve",
    "--character-set-server=utf8mb3",
    "--collation-server=utf8mb3_general_ci",
)


def service(control: Control) -> Service:
    """The server."""
    command = (
        "/usr/sbin/mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={control.data / 'mariadb'}",
        f"--socket={_socket(control)}",
        f"--pid-file={control.records / 'mariadb.pid'}",
        f"--bind-address={control.address}",
        f"--port={settings.MARIADB}",
        *OPTIONS,
    )
    return Service("mariadb", control, command, listens(control, settings.MARIADB))


def _socket(control: Control) -> pathlib.Path:
    return control.run_dir / "mariadb.sock"


def install(control: Control) -> None:
    """Make an empty server."""
    command = ["mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db"]
    command += [
        f"--datadir={control.data / 'mariadb'}",
        "--auth-root-authentication-method=normal",
    ]
    control.run(command, limit_s=SYNC_LIMIT_S)


def create(control: Control) -> None:
    """Make every service's database, empty, and the one user for them."""
    script = [
        f"CREATE USER cloud@'%' IDENTIFIED BY '{settings.PASSWORD}';",
        "GRANT ALL ON *.* TO cloud@'%';",
        *(f"CREATE DATABASE {name};" for name in NAMES),
    ]
    query(control, "\n".join(script))


def query(control: Control, sql: str, database: str = "") -> str:
    """What ``sql`` yields: a line a row, columns separated by tabs, without a head."""
    command = ["mariadb", "--no-defaults", "--user=root", f"--socket={_socket(control)}"]
    return control.run([*command, "--batch", "--skip-column-names", database], script=sql)


def fill(control: Control, commands: Sequence[Words], **environment: str) -> None:
    """Run a service's own commands that make its tables, one after another."""
    words: Mapping[str, str] = {**base_environment(control), **environment}
    for command in commands:
        process.run([*control.sandbox.enter(), *command], limit_s=SYNC_LIMIT_S, env=words)
