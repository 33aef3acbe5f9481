"""Whole clones in the lab: both agents, a guest that is cloned again and again, and a look at what a clone left behind.

What is left is not looked for by name: the inventory of a host (processes, mounts, files, domains) and of a guest (QEMU's
nodes, jobs, exports, objects, capabilities, protected memory) is taken before a story and must be the same after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import secrets
import signal
import sys
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from labkit import guests, ordering, process
from labkit.agent import Agent
from labkit.console import Console
from labkit.demo import serial_paths
from labkit.display import CloneProgress
from labkit.guests import Guest, Wish
from labkit.host import Host
from labkit.lab import Lab
from labkit.node import mounts_below
from labkit.operator import Operator
from labkit.ordering import Cloning, Ordered
from labkit.paths import CHECKOUT
from labkit.process import Process
from labkit.sandbox import inhabitants

from nova_trusted_clone.clone import records
from nova_trusted_clone.clone.authority import CloneTerms
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.datapath import processes
from nova_trusted_clone.hypervisor.qemu.destination import QemuDestination
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor
from nova_trusted_clone.hypervisor.qemu.process import mappings, of_domain

SETTLE_S = 20.0
POLL_S = 0.05
# A clone's directory keeps these: what was ordered, what was said, what came of it.
RECORDS = frozenset(
    ("clone.json", "session.log", "evidence.json", "freeze.json", "anchors.pem", "policy.json")
)
# Warm vTPMs come and go by themselves.
OWN_PLACES = ("vtpm", "used")
LIMITS = {"message_timeout_s": "5", "network_limit_s": "8"}


@dataclasses.dataclass(frozen=True)
class CloneLab:
    """Both hosts with their agents."""

    lab: Lab
    operator: Operator

    @property
    def source(self) -> Host:
        """Where the guests run that are cloned."""
        return self.lab.source

    @property
    def destination(self) -> Host:
        """Where the clones run."""
        return self.lab.destination

    # -- agents --

    def start_agents(self, **further: str) -> None:
        """Configure and start the agents of both hosts."""
        for host in self.lab.hosts:
            self.start_agent(host, **further)

    def start_agent(self, host: Host, **further: str) -> None:
        """Configure and start the agent of one host, with the limits of a test."""
        agent = self.operator.agent(host)
        agent.stop()
        agent.configure({**LIMITS, **further})
        agent.start()

    def start_evil_agent(self, host: Host, **further: str) -> None:
        """Start the tests' agent, which is the product's until something else is wished."""
        self.wish(host)
        self.start_program(host, "tests.integration.evil_agent", **further)

    def wish(self, host: Host, **wishes: Any) -> None:
        """What the tests' agent of a host and its exporters shall do from now on; nothing: be honest."""
        records.write(host.base / "wishes.json", wishes)

    def start_program(self, host: Host, module: str, *arguments: str, **further: str) -> None:
        """Start a program of the tests in the place of a host's agent."""
        agent = self.operator.agent(host)
        agent.stop()
        agent.configure({**LIMITS, **further})
        command = [sys.executable, "-m", module, *arguments, "--config-file", str(host.config_file)]
        running = host.start(
            command, agent.log, {**os.environ, "PYTHONPATH": f"{CHECKOUT / 'tools'}:{CHECKOUT}"}
        )
        running.save(host.base / "agent.json")
        assert process.wait_until(lambda: answers(agent) or not running.alive, 30), (
            agent.log.read_text()
        )
        assert running.alive, agent.log.read_text()[-2000:]

    def stop_agents(self) -> None:
        """End both."""
        for host in self.lab.hosts:
            self.operator.agent(host).stop()

    def kill_agent(self, host: Host) -> None:
        """SIGKILL: no word of farewell."""
        running = self.agent_process(host)
        running.signal(signal.SIGKILL)
        assert process.wait_until(lambda: not running.alive, 10)

    def agent_process(self, host: Host) -> Process:
        """The agent that was started last."""
        running = Process.load(host.base / "agent.json")
        assert running is not None, f"{host.name} has no agent"
        return running

    # -- clones --

    def order(self, guest: Guest, **wanted: Any) -> Cloning:
        """Order clones of a guest; see ``labkit.ordering.order``."""
        return ordering.order(self.operator, guest, self.destination, **wanted)

    def complete(self, guest: Guest, limit_s: float = 120.0, **wanted: Any) -> Cloning:
        """Order clones and wait until all are complete."""
        cloning = self.order(guest, **wanted)
        ended = cloning.wait(limit_s)
        assert [clone.phase for clone in ended] == ["complete"] * len(ended), ended
        return cloning

    def fail(self, guest: Guest, limit_s: float = 90.0, **wanted: Any) -> CloneProgress:
        """Order one clone and wait until it has failed."""
        return failed(self.order(guest, **wanted), limit_s)

    def destroy(self, clone: Ordered) -> None:
        """End a clone and remove its disks, as an ordinary server's owner does."""
        host = self.destination
        directory = host.state_path / "clones" / clone.clone_id
        QemuDestination(host.uri, host.memory_backing_dir).destroy(clone.uuid, directory)

    def console(self, clone: Ordered) -> Console:
        """What a running clone prints."""
        paths = serial_paths(self.destination, clone.uuid)
        assert paths, f"{clone.name} does not run"
        return Console(paths[0])

    def incoming(self, clone: Ordered) -> dict[str, Any]:
        """The destination's own record of a clone."""
        return records.read(self.destination.state_path / "clones" / clone.clone_id / "clone.json")

    def outgoing(self, cloning: Cloning, clone: Ordered) -> dict[str, Any]:
        """The source's own record of a clone."""
        freeze = self.source.state_path / "freezes" / cloning.group
        return records.read(freeze / "clones" / clone.clone_id / "clone.json")

    def exporter(self, cloning: Cloning) -> processes.ProcessId:
        """The exporter process of a freeze."""
        return helper(self.source.state_path / "freezes" / cloning.group / "exporter")

    def store(self, cloning: Cloning) -> processes.ProcessId:
        """The store process of a freeze."""
        return helper(self.destination.state_path / "stores" / cloning.group)

    def phases(self, cloning: Cloning) -> tuple[str, str]:
        """Phase at the source and phase at the destination of an only clone, as their records have it."""
        (clone,) = cloning.clones
        return self.outgoing(cloning, clone)["phase"], self.incoming(clone)["phase"]

    def ended(self, cloning: Cloning, limit_s: float = 60.0) -> tuple[str, str]:
        """Wait until the only clone has ended on both hosts, whoever is alive; the reasons."""
        (clone,) = cloning.clones
        until(
            "the end of the clone on both hosts",
            lambda: set(self.phases(cloning)) <= {"complete", "failed"},
            limit_s,
        )
        return self.outgoing(cloning, clone)["reason"], self.incoming(clone)["reason"]

    # -- what is left --

    def _quiet(self) -> None:
        """A story that failed may have left a clone on its way: it must not count as what was there before."""

        def helpers() -> list[str]:
            running = [line for h in self.lab.hosts for line in _processes(h) if " -m " in line]
            return running + [
                str(path) for path in (self.destination.state_path / "stores").glob("*")
            ]

        if not process.wait_until(lambda: not helpers(), SETTLE_S):
            pytest.fail(f"before the story begins there are still {helpers()}")

    def _tidy(self, before: frozenset[str]) -> None:
        """After a story that failed: end its clones, so that the next story is not about them."""
        host = self.destination
        with guests.connected(host) as connection:
            new = [d.UUIDString() for d in connection.listAllDomains()]
        by_uuid = {
            records.read(path)["identity"]["uuid"]: path.parent
            for path in (host.state_path / "clones").glob("*/clone.json")
        }
        for server in new:
            if f"domain {server}" not in before and server in by_uuid:
                QemuDestination(host.uri, host.memory_backing_dir).destroy(server, by_uuid[server])

    @contextlib.contextmanager
    def nothing_left(self, *source_guests: Guest) -> Iterator[None]:
        """Both hosts are afterwards as before, and the guests unharmed."""
        self._quiet()
        guests_before = {guest.uuid: freeze_marks(guest) for guest in source_guests}
        for marks in guests_before.values():
            assert not [mark for mark in marks if "ntc-" in mark], marks
        before = {host.name: inventory(host) for host in self.lab.hosts}
        since = {guest.uuid: guest.console.size() for guest in source_guests}
        try:
            yield
        except BaseException:
            self._tidy(before[self.destination.name])
            raise
        self.wish(self.source)
        for host in self.lab.hosts:
            same_again(host.name, before[host.name], functools.partial(inventory, host))
        for guest in source_guests:
            same_again(
                guest.name, guests_before[guest.uuid], functools.partial(freeze_marks, guest)
            )
            # The whole story through: from before it, and well past its end.
            found = guest.console.check_itself(since=since[guest.uuid])
            found = guest.console.check_itself()
            assert found.bad == 0


def failed(cloning: Cloning, limit_s: float = 90.0) -> CloneProgress:
    """Wait until the one clone has failed, on both sides."""
    (ended,) = cloning.wait(limit_s)
    assert ended.phase == "failed", ended
    return ended


@contextlib.contextmanager
def running(host: Host, **wished: Any) -> Iterator[Guest]:
    """A guest for some stories."""
    wish = Wish(**{"memory_mib": 128, "pages": 6000, "disks": (16,), **wished})
    guest = guests.start(host, wish)
    try:
        guest.wait_ready()
        yield guest
    finally:
        guest.destroy()


def terms(clones: CloneLab, guest: Guest, server: uuid.UUID) -> CloneTerms:
    """What an order for a clone of the guest says."""
    return CloneTerms(
        clone_id=secrets.token_bytes(16),
        freeze_group=secrets.token_bytes(16),
        project_id="project",
        user_id="user",
        source_server=uuid.UUID(guest.uuid).bytes,
        destination_server=server.bytes,
        source_host=clones.source.name,
        destination_host=clones.destination.name,
        disks=tuple((disk.target, disk.size_bytes) for disk in guest.definition.disks),
        memory_bytes=guest.definition.memory_mib << 20,
        policy_sha256=Policy.parse(clones.operator.policy.read_bytes()).sha256,
        vtpm_mode="new",
        memory_mode="lazy",
        tenant_nonce=secrets.token_bytes(32),
    )


def signed_order(clones: CloneLab, guest: Guest) -> bytes:
    """An order of the operator's for a clone of the guest, that nobody was told of."""
    return clones.operator.authority.sign_order(terms(clones, guest, uuid.uuid4())).encode()


def answers(agent: Agent) -> bool:
    """Whether an agent takes requests."""
    return agent._answers()


def until(
    what: str, holds: Callable[[], Any], limit_s: float = 60.0, poll_s: float = POLL_S
) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + limit_s
    while not (found := holds()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {limit_s:g} s")
        time.sleep(poll_s)
    return found


def helper(directory: pathlib.Path) -> processes.ProcessId:
    """The helper process of a directory, once it has been started."""
    found = until(f"a helper in {directory}", lambda: processes.find(directory), 30)
    assert isinstance(found, processes.ProcessId)
    return found


def kill(victim: processes.ProcessId) -> None:
    """SIGKILL."""
    os.kill(victim.pid, signal.SIGKILL)
    until(f"the end of process {victim.pid}", lambda: not victim.alive, 10)


# -- inventories --


def same_again(name: str, before: frozenset[str], now: Callable[[], frozenset[str]]) -> None:
    """Wait until an inventory is what it was.

    What comes to its end by itself (a store without clones, a dismissed guard) is given its time.
    """
    deadline = time.monotonic() + SETTLE_S
    while (found := now()) != before:
        if time.monotonic() > deadline:
            more, less = sorted(found - before), sorted(before - found)
            pytest.fail(f"{name}: left behind: {more}; lost: {less}")
        time.sleep(0.2)


def inventory(host: Host) -> frozenset[str]:
    """Everything of a host that a clone may add to."""
    return frozenset(
        [
            *_processes(host),
            *_domains(host),
            *_mounts(host),
            *(f"file {path}" for path in _files(host)),
            *(f"link {path}" for path in (host.memory_backing_dir / "libvirt/qemu").glob("*")),
            *(f"vTPM state {path}" for path in (host.base / "var" / "swtpm").glob("*")),
        ]
    )


def _processes(host: Host) -> Iterator[str]:
    for one in inhabitants(host.marker):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = pathlib.Path(f"/proc/{one.pid}/cmdline").read_bytes().decode().split("\0")
            line = " ".join(words)
            module = re.search(r"-m (\S*(?:exporter|store|guard))\b", line)
            if module:
                yield f"process -m {module[1]} {one.pid}"
            elif "-machine none" in line:
                # libvirt looks at what QEMU can do, when an agent has just started; it ends by itself.
                continue
            elif words and pathlib.Path(words[0]).name in ("qemu-system-x86_64", "qemu-img"):
                yield f"process {words[0]} {one.pid}"


def _domains(host: Host) -> list[str]:
    with guests.connected(host) as connection:
        return [f"domain {domain.UUIDString()}" for domain in connection.listAllDomains()]


def _mounts(host: Host) -> Iterator[str]:
    """As seen inside; a FUSE mount is made there and shows nowhere else."""
    lines = pathlib.Path(f"/proc/{host.sandbox.holder.pid}/mountinfo").read_text().splitlines()
    for line in lines:
        point = line.split()[4]
        if point.startswith(f"{host.state_path}/"):
            yield f"mount {point}"
    yield from (f"mount outside {point}" for point in mounts_below(host.state_path))


def _files(host: Host) -> Iterator[pathlib.Path]:
    for root, _directories, names in os.walk(host.state_path):
        inside = pathlib.Path(root).relative_to(host.state_path)
        if inside.parts[:1] and inside.parts[0] in OWN_PLACES:
            continue
        yield from (
            inside / name
            for name in names
            if name not in RECORDS and name not in ("admin.sock", "lock")
        )
    for place in ("stores",):
        yield from (path for path in (host.state_path / place).glob("*"))


def freeze_marks(guest: Guest) -> frozenset[str]:
    """Everything of a running guest's QEMU that a freeze may add to or change."""
    with guests.connected(guest.host) as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        monitor = Monitor(domain)
        found = {
            f"running {monitor.execute('query-status')['running']}",
            f"libvirt state {domain.state()[0]}",
            f"bandwidth {monitor.execute('query-migrate-parameters')['max-bandwidth']}",
        }
        found |= {f"node {n['node-name']}" for n in monitor.execute("query-named-block-nodes")}
        found |= {f"job {job['id']}" for job in monitor.execute("query-jobs")}
        found |= {f"export {export['id']}" for export in monitor.execute("query-block-exports")}
        found |= {f"object {o['name']}" for o in monitor.execute("qom-list", path="/objects")}
        found |= {f"fdset {s['fdset-id']}" for s in monitor.execute("query-fdsets")}
        found |= {
            f"capability {c['capability']}"
            for c in monitor.execute("query-migrate-capabilities")
            if c["state"]
        }
        pid = of_domain(guest.uuid).pid
    protected = [m for m in mappings(pid) if "uw" in m.flags]
    return frozenset(found | {f"protected {m.start:x}" for m in protected})


# -- what a clone is --


def definition(host: Host, server_uuid: str) -> ET.Element:
    """A running server's definition."""
    with guests.connected(host) as connection:
        return ET.fromstring(connection.lookupByUUIDString(server_uuid).XMLDesc(0))


def said(console: Console, since: int = 0, limit_s: float = 60.0) -> Mapping[str, str]:
    """Who a guest says that it is: MAC, generation id, EK and AK, and a number of its TPM's own."""
    nic = console.wait_for("NIC", timeout_s=limit_s, since=since)
    genid = console.wait_for("GENID", timeout_s=limit_s, since=since)
    tpm = console.wait_for("TPM", timeout_s=limit_s, since=since)
    return {"mac": nic["mac"], "genid": genid["value"], **tpm.values}


def evidence_file(cloning: Cloning, clone: Ordered, path: pathlib.Path) -> pathlib.Path:
    """A complete clone's evidence, as the tenant gets it."""
    path.write_text(json.dumps(cloning.evidence(clone)))
    return path
