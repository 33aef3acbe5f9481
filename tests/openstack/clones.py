"""Clones of one server in a story: asked for by its owner, watched, held in the middle, removed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from labkit import process
from labkit.cloud.servers import Server
from openstack.connection import Connection

from nova_trusted_clone.clone import records
from nova_trusted_clone.datapath import processes
from tests.openstack.tenant import LIMIT_S, Done, Running, Tenant

ENDED = ("complete", "failed", "aborted")
SERVING, PROVISIONAL, SLOWED = "serving", "provisional", "slowed"
LOOK_S = 0.02
# A tenth of the usual rate, so that a clone which runs already has not fetched all of it.
RUNNING_S, STOPPED_S = 0.02, 0.18
# From the request to a frozen source, emulated and beside a whole cloud.
FREEZE_LIMIT_S = 120.0


@dataclasses.dataclass(frozen=True)
class Clones:
    """The clones of ``source``, as ``tenant`` sees them."""

    tenant: Tenant
    source: Server

    def records(self, client: Connection | None = None) -> list[dict[str, Any]]:
        """What the API has of them, the newest first; nothing when the source is gone.

        :param client: the source's owner, by default
        """
        path = f"/servers/{self.source.id}/trusted-clones"
        reply = (client or self.source.client).compute.get(path, raise_exc=False)
        if reply.status_code == 404:
            return []
        found = reply.json()["trusted_clones"]
        return [one for one in found if one["source_id"] == self.source.id]

    def record(self, name: str, client: Connection | None = None) -> dict[str, Any]:
        """The record of the clone of that name, the newest if there are several; as the administrator with its hosts."""
        return next(one for one in self.records(client) if one["name"] == name)

    def server(self, name: str) -> Server:
        """The clone of that name."""
        return dataclasses.replace(self.source, id=self.record(name)["server_id"])

    def servers(self) -> list[Server]:
        """All of them."""
        return [dataclasses.replace(self.source, id=one["server_id"]) for one in self.records()]

    def begin(self, name: str, *words: object, until: str = "") -> Running:
        """Ask for a clone and wait for it in the background.

        :param until: a pattern of what is told of it before this returns
        """
        command = ("server", "clone", self.source.id, "--name", name, "--wait", "-f", "json")
        running = self.tenant.start(*command, *words)
        running.wait_until_it_says(f"^{name}(-1)?: {until}")
        return running

    def made(self, name: str, *words: object) -> Server:
        """A complete clone."""
        done = self.begin(name, *words).done()
        assert phases(done) == ["complete"], done.err
        server = self.server(name)
        # All of it may be there before Nova has heard that its port is up.
        server.wait_for_status()
        return server

    def wait_for_end(self, name: str) -> str:
        """The phase in which the clone of that name has ended."""
        phases: list[str] = []

        def ended() -> bool:
            phases[:] = [self.record(name)["phase"]]
            return phases[0] in ENDED

        assert process.wait_until(ended, LIMIT_S, 1.0), f"{name} is still {phases[0]}"
        return phases[0]

    def remove(self) -> None:
        """Delete every clone that there still is, all at once."""
        compute = self.source.admin.compute
        there = {server.id for server in compute.servers(details=False, all_projects=True)}
        left = [server for server in self.servers() if server.id in there]
        for server in left:
            compute.delete_server(server.id, ignore_missing=True)
        for server in left:
            server.delete()


def phases(done: Done) -> list[str]:
    """The phases that a command's table ends with."""
    return [str(row["Phase"]) for row in done.json()]


def ended_in(running: Running) -> list[str]:
    """The phases in which the clones ended for which somebody waited."""
    return phases(running.done())


class Hold:
    """Stops what sends a freeze: the clone stays in the middle, as long as the hosts have patience with each other.

    It has to be there before the clone is asked for, which is quick.
    """

    def __init__(self, source: Server, until: str) -> None:
        self._server = source.id
        # On every host: where the source is by then is Nova's to know.
        self._freezes = [host.state_path / "freezes" for host in source.cloud.computes]
        self._clones = [host.state_path / "clones" for host in source.cloud.computes]
        self._until = until
        self._exporter: processes.ProcessId | None = None
        self._reached = threading.Event()
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def wait(self) -> None:
        """Until the clone is in the middle."""
        assert self._reached.wait(FREEZE_LIMIT_S), f"no clone became {self._until}"

    def let_go(self) -> None:
        """Go on."""
        self._over.set()
        self._watching.join()
        self._signal(signal.SIGCONT)

    def _watch(self) -> None:
        while self._exporter is None:
            if self._over.wait(LOOK_S):
                return
            self._exporter = self._serving()
        self._signal(signal.SIGSTOP)
        if self._until == SLOWED:
            self._reached.set()
        while self._until != SERVING and not self._is_reached():
            if self._over.wait(STOPPED_S):
                return
            self._signal(signal.SIGCONT)
            time.sleep(RUNNING_S)
            self._signal(signal.SIGSTOP)
        self._reached.set()

    def _is_reached(self) -> bool:
        return self._until == PROVISIONAL and self._is_provisional()

    def _serving(self) -> processes.ProcessId | None:
        for file in (file for place in self._freezes for file in place.glob("*/freeze.json")):
            record = _record(file)
            if (record.get("server"), record.get("phase")) == (self._server, SERVING):
                return processes.find(file.parent / "exporter")
        return None

    def _is_provisional(self) -> bool:
        files = (file for place in self._clones for file in place.glob("*/clone.json"))
        return any(_record(file).get("phase") == PROVISIONAL for file in files)

    def _signal(self, what: signal.Signals) -> None:
        if self._exporter is not None and self._exporter.alive:
            os.kill(self._exporter.pid, what)


@contextlib.contextmanager
def held(source: Server, until: str = SERVING) -> Iterator[Hold]:
    """Hold the next clone of a server until the end of this block, or until it is let go.

    :param until: ``serving``: nothing of it has been fetched; ``provisional``: it runs, and much of it is still to be fetched;
        ``slowed``: it goes on all the time, at a tenth of its rate
    """
    hold = Hold(source, until)
    try:
        yield hold
    finally:
        hold.let_go()


def _record(file: pathlib.Path) -> dict[str, Any]:
    try:
        return records.read(file)
    except records.RecordError:
        return {}  # it is not there yet, or not there any more
