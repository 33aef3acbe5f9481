"""Real database servers for a test: a private data directory, a unix socket, ended by pid."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

POSTGRES = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
MARIADB = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
START_LIMIT_S = 60.0
UNPRIVILEGED = "nobody"
"""PostgreSQL does not run as root."""


class Server:
    """A database server that can be ended hard and started again.

    :ivar url: SQLAlchemy's
    """

    def __init__(self, directory: pathlib.Path, url: str, command: list[str], user: str) -> None:
        self.url = url
        self._directory = directory
        self._command = command
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, user=self._user, cwd=self._directory
            )
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None or self._answers():
                break
            time.sleep(0.1)
        else:
            self.kill()
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError((self._directory / "log").read_text()[-2000:])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=START_LIMIT_S)
            self._process = None

    def _answers(self) -> bool:
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.pool.NullPool)
        try:
            with engine.connect():
                return True
        except sqlalchemy.exc.DBAPIError:
            return False
        finally:
            engine.dispose()


@contextlib.contextmanager
def mariadb(directory: pathlib.Path) -> Iterator[Server]:
    """A MariaDB with a database ``records``."""
    assert MARIADB is not None
    user = pwd.getpwuid(os.geteuid()).pw_name
    data, socket = directory / "data", directory / "sock"
    subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            f"--user={user}",
            "--auth-root-authentication-method=normal",
        ],
        check=True,
        capture_output=True,
    )
    boot = directory / "boot.sql"
    boot.write_text("CREATE DATABASE IF NOT EXISTS records CHARACTER SET utf8mb4;\n")
    command = [
        MARIADB,
        "--no-defaults",
        f"--user={user}",
        f"--datadir={data}",
        f"--socket={socket}",
        "--skip-networking",
        f"--pid-file={directory / 'pid'}",
        f"--init-file={boot}",
        "--innodb-buffer-pool-size=32M",
        # A killed server loses nothing, a killed machine may: the disk need not be waited for.
        "--innodb-flush-log-at-trx-commit=2",
        "--performance-schema=off",
    ]
    url = f"mysql+pymysql://root@localhost/records?unix_socket={socket}&charset=utf8mb4"
    yield from _running(Server(directory, url, command, user))


@contextlib.contextmanager
def postgresql(directory: pathlib.Path) -> Iterator[Server]:
    """A PostgreSQL with a database ``records``."""
    user = UNPRIVILEGED if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    _let_through(directory, user)
    binaries, data = POSTGRES[-1].parent, directory / "data"
    subprocess.run(
        [
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-U",
            "records",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ],
        check=True,
        capture_output=True,
        user=user,
        cwd=directory,
    )
    command = [
        str(binaries / "postgres"),
        "-D",
        str(data),
        "-k",
        str(directory),
        "-c",
        "listen_addresses=",
        "-c",
        "fsync=off",
    ]
    base = f"postgresql+psycopg2://records@/%s?host={directory}"
    server = Server(directory, base % "postgres", command, user)
    for running in _running(server):
        subprocess.run(
            [str(binaries / "createdb"), "-h", str(directory), "-U", "records", "records"],
            check=True,
            capture_output=True,
        )
        running.url = base % "records"
        yield running


def _running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _let_through(directory: pathlib.Path, user: str) -> None:
    """Let another user reach a directory of the tests, and own it."""
    shutil.chown(directory, user)
    for parent in directory.parents:
        if parent == pathlib.Path("/tmp"):
            break
        if os.geteuid() == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
