"""A program of the cloud that stays: started inside its node, known by its record, ended by it."""

from __future__ import annotations

import dataclasses
import http.client
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from labkit import netns, process
from labkit.cloud import settings
from labkit.cloud.nodes import CloudNode
from labkit.errors import LabError
from labkit.node import Node
from labkit.process import Process, Word

# A service that has not come up in this time under emulation and with two processors has hung.
READY_LIMIT_S = 300.0
POLL_S = 0.1
STOP_LIMIT_S = 20.0
ANSWER_LIMIT_S = 10.0
KEPT_FROM_CALLER = ("LANG", "LC_ALL", "TERM", "TZ")


@dataclasses.dataclass(frozen=True)
class Service:
    """One program.

    :ivar name: unique in the cloud; its log has it too
    :ivar ready: tells whether it does its work; None: when it runs
    :ivar port: of an API; its workers hold it a moment longer than the process that is known by its record
    """

    name: str
    node: CloudNode
    command: tuple[Word, ...]
    ready: Callable[[], bool] | None = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    port: int | None = None

    @property
    def log(self) -> pathlib.Path:
        """What it says; kept by ``down``."""
        return self.node.paths.log / f"{self.name}.log"

    @property
    def _record(self) -> pathlib.Path:
        return self.node.records / f"{self.name}.json"

    @property
    def process(self) -> Process | None:
        """The running process, if there is one."""
        found = Process.load(self._record)
        return found if found is not None and found.alive else None

    def start(self) -> None:
        """Start it and wait until it is ready.

        :raises LabError: with the end of its log, when it does not become ready
        """
        if self.process is not None:
            raise LabError(f"{self.name} runs already")
        environment = {**base_environment(self.node), **self.environment}
        running = self.node.start(self.command, self.log, environment)
        running.save(self._record)
        is_ready = self.ready or (lambda: True)
        came_up = process.wait_until(lambda: not running.alive or is_ready(), READY_LIMIT_S, POLL_S)
        if not came_up or not running.alive:
            running.end()
            raise LabError(f"{self.name} did not start; {self.log} ends with: {self.tail()}")

    def tail(self, limit: int = 1500) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-limit:] if self.log.exists() else ""

    def stop(self) -> None:
        """End it; harmless when it does not run.

        :raises LabError: when its port stays taken
        """
        running = self.process
        if running is not None:
            running.end()
        self._record.unlink(missing_ok=True)
        port = self.port
        if port is None:
            return
        holder = self.node.sandbox.holder.pid
        if not process.wait_until(lambda: not netns.listens(holder, port), STOP_LIMIT_S, POLL_S):
            raise LabError(f"{self.name} has ended, and port {port} is still taken")

    def restart(self) -> None:
        """End it and start it anew."""
        self.stop()
        self.start()


def base_environment(node: Node) -> dict[str, str]:
    """What a service gets: nothing of the caller's but how it speaks. The project is found as it is installed."""
    kept = {name: os.environ[name] for name in KEPT_FROM_CALLER if name in os.environ}
    return {
        **kept,
        "PATH": f"{settings.BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(node.base),
        "VIRTUAL_ENV": str(settings.BIN.parent),
    }


def listens(node: Node, port: int) -> Callable[[], bool]:
    """Ready when a TCP port is open."""
    return lambda: netns.listens(node.sandbox.holder.pid, port)


def answers(node: Node, port: int, path: str = "/") -> Callable[[], bool]:
    """Ready when an HTTP request is answered by anything but a server error."""

    def ask() -> bool:
        connection = http.client.HTTPConnection(node.address, port, timeout=ANSWER_LIMIT_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()

    return lambda: netns.call(node.sandbox.holder.pid, ask)


def wsgi(
    node: CloudNode,
    name: str,
    port: int,
    application: tuple[str, str],
    environment: Mapping[str, str],
    threads: int = 8,
    further: Sequence[Word] = (),
    home: pathlib.Path = settings.BIN.parent,
) -> Service:
    """An API under uWSGI.

    :param application: uWSGI's option that names it, and its value
    :param home: the virtual environment that it is installed in
    """
    # uWSGI closes connections that keep-alive clients still believe in: told beforehand, they do not.
    command: list[Word] = [
        settings.BIN / "uwsgi",
        *("--http-socket", f"{node.address}:{port}", *application, "--home", home),
        *("--master", "--processes", "1", "--threads", str(threads), "--enable-threads"),
        *("--lazy-apps", "--need-app", "--die-on-term", "--buffer-size", "65535"),
        *("--add-header", "Connection: close"),
        *further,
    ]
    return Service(name, node, tuple(command), answers(node, port), environment, port)
