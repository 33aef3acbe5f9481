"""``tools/lab demo``: a cloud, a server with a vTPM, its clones by the openstack client, and what came of it."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import subprocess

from openstack.connection import Connection
from openstack.exceptions import SDKException
from rich.console import Console as Terminal

from labkit import display
from labkit.cloud import clients, commands, horizon, report, servers
from labkit.cloud.cloud import Cloud
from labkit.cloud.report import CloneRow, ServerRow
from labkit.cloud.servers import Server
from labkit.console import Line
from labkit.errors import ConsoleTimeout, GuestFailed, LabError
from labkit.lab import Report
from nova_trusted_clone.client.rest import TrustedClones
from nova_trusted_clone.client.values import Clone

TENANT = "demo"
# A guest says each of its lines every few seconds; a busy one takes longer.
SAID_LIMIT_S = 30.0
PING_LIMIT_S = 60.0
VERIFY_LIMIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    count: int = 2
    memory: str = "lazy"
    vtpm: str = "new"
    horizon: bool = False


def run(options: Options, say: Report, terminal: Terminal) -> bool:
    """Bring the cloud up unless it is, clone, show the result; the cloud stays.

    :returns: whether every clone answers, its evidence holds, and nothing is damaged
    """
    if options.vtpm == "none":
        raise LabError("the cloud's guests have a vTPM; --vtpm none goes with --engine")
    cloud = Cloud.from_environment()
    if cloud.is_up:
        say("the cloud is up already")
    else:
        cloud.up(say)
    if options.horizon:
        say("the dashboard: its static files are collected and compressed")
        horizon.start(cloud.control)
    try:
        good = cloud.inside(lambda: _Demo(cloud, options, say, terminal).run())
    except SDKException as error:
        raise LabError(f"the cloud answers: {error}") from error
    say("the cloud stays up:")
    commands.usage(say)
    if options.horizon:
        commands.dashboard_usage(say)
    return good


class _Demo:
    """One run in a cloud that is up, by a thread in its control node's network."""

    def __init__(self, cloud: Cloud, options: Options, say: Report, terminal: Terminal) -> None:
        self._cloud = cloud
        self._options = options
        self._say = say
        self._terminal = terminal
        self._admin = clients.connect(cloud.control)
        self._tenant = clients.connect(cloud.control, TENANT)

    def run(self) -> bool:
        source = self._source()
        name = str(source.shown().name)
        before = {clone.id for clone in self._records(source)}
        self._clone(name)
        made = [clone for clone in self._records(source) if clone.id not in before]
        clones = [self._clone_row(clone) for clone in made]
        shown = self._server_row(source)
        names = [clone.server.name for clone in clones]
        display.show_table(name, names, report.rows(shown, clones), self._terminal)
        return (
            len(clones) == self._options.count
            and _is_good(shown, True)
            and all(_is_good(clone.server, clone.evidence == "holds") for clone in clones)
        )

    def _source(self) -> Server:
        """A running server that answers and checks itself."""
        name = _free_name(self._tenant)
        self._say(f"openstack server create --flavor small --image guest --network lan {name}")
        source = servers.create(self._cloud, self._tenant, self._admin, name)
        source.wait_for_status("ACTIVE")
        (address,) = source.addresses
        self._say(f"{name} is ACTIVE on {source.host.name}; waiting for it at {address}")
        source.wait_ready()
        if not source.answers_ping():
            raise LabError(f"{name} does not answer at {address}; {source.console.path} says why")
        source.console.check_itself()
        self._say(f"{name} answers at {address} and checks itself")
        return source

    def _clone(self, name: str) -> None:
        """By the client that a tenant has, its output to the terminal."""
        options = self._options
        words = ["openstack", "server", "clone", "--count", str(options.count)]
        words += ["--memory", options.memory, "--vtpm", options.vtpm, "--wait", name]
        self._say(" ".join(words))
        enter = self._cloud.control.sandbox.enter()
        environment = clients.environment(self._cloud.control, TENANT)
        environment["COLUMNS"] = str(self._terminal.width)
        # Its status shows in the table too, which tells more.
        subprocess.run([*enter, *words], env=environment, check=False)

    def _records(self, source: Server) -> tuple[Clone, ...]:
        return TrustedClones(self._tenant.compute).list(source.id)

    def _clone_row(self, clone: Clone) -> CloneRow:
        server = Server(self._cloud, self._tenant, self._admin, clone.server_id)
        if clone.complete:
            # All of it may be there before Nova has heard that its port is up.
            server.wait_for_status()
        return CloneRow(
            server=self._server_row(server) if clone.complete else _failed(clone),
            pause_ms=None if clone.pause_us is None else clone.pause_us / 1e3,
            active_s=_seconds(clone.created_at, server.shown().launched_at),
            complete_s=_seconds(clone.created_at, clone.completed_at),
            pages_verified=clone.progress.pages_verified,
            bytes_verified=clone.progress.bytes_verified,
            evidence=self._verdict(clone),
        )

    def _server_row(self, server: Server) -> ServerRow:
        """Who a guest is and how it is, in its own words, from now on."""
        shown, console = server.shown(), server.console
        since = console.size()
        answers = server.answers_ping(PING_LIMIT_S) and server.says_address(SAID_LIMIT_S)
        nic, genid, tpm = (_said(server, kind, since) for kind in ("NIC", "GENID", "TPM"))
        return ServerRow(
            name=shown.name,
            host=shown.compute_host,
            uuid=server.id,
            address=server.addresses[0],
            answers=answers,
            mac=nic["mac"] if nic else "none",
            genid=genid["value"] if genid else "none",
            ek_sha256=tpm["ek_rsa"] if tpm else "",
            self_check=_self_check(server, since),
        )

    def _verdict(self, clone: Clone) -> str:
        """Of ``openstack server clone evidence verify``, which asks no cloud."""
        if not clone.complete:
            return f"none: {clone.phase}, {clone.reason}"
        file = self._evidence_file(clone)
        words = ["openstack", "server", "clone", "evidence", "verify", "--nonce", clone.nonce]
        words += ["--source", clone.source_id, "--server", clone.server_id, str(file)]
        environment = clients.environment(self._cloud.control, TENANT)
        enter = self._cloud.control.sandbox.enter()
        done = subprocess.run(
            [*enter, *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=VERIFY_LIMIT_S,
        )
        return "holds" if done.returncode == 0 else f"DOES NOT HOLD: {done.stdout}{done.stderr}"

    def _evidence_file(self, clone: Clone) -> pathlib.Path:
        """Saved beside the logs, where it stays."""
        file = self._cloud.paths.log / f"evidence-{clone.name}-{clone.id[:8]}.json"
        file.write_bytes(TrustedClones(self._tenant.compute).evidence(clone.server_id, clone.id))
        return file


def _free_name(tenant: Connection) -> str:
    taken = {server.name for server in tenant.compute.servers()}
    return next(name for number in range(1, 1000) if (name := f"web-{number}") not in taken)


def _said(server: Server, kind: str, since: int) -> Line | None:
    """What a guest says of itself next; None when it has no such part."""
    try:
        return server.console.wait_for(kind, timeout_s=SAID_LIMIT_S, since=since)
    except (ConsoleTimeout, GuestFailed):
        return None


def _self_check(server: Server, since: int) -> str:
    try:
        found = server.console.check_itself(since=since)
    except (ConsoleTimeout, GuestFailed) as error:
        return f"damaged: {error}"
    return f"{found.pages} pages, {found.blocks} blocks, {found.bad} bad"


def _failed(clone: Clone) -> ServerRow:
    return ServerRow(
        clone.name, clone.host, clone.server_id, "none", False, "", "", "", "does not run"
    )


def _is_good(server: ServerRow, evidence_holds: bool) -> bool:
    return evidence_holds and server.answers and server.self_check.endswith(" 0 bad")


def _seconds(begin: str, end: str | None) -> float | None:
    """Between two times as the APIs tell them, UTC."""
    if not begin or not end:
        return None
    times = [datetime.datetime.fromisoformat(one.rstrip("Z")) for one in (begin, end)]
    return (times[1] - times[0]).total_seconds()
