"""``tools/lab demo``: two hosts, a guest, its clones, and what came of it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import threading
import time
import xml.etree.ElementTree as ET

import libvirt
from rich.console import Console as Terminal

from labkit import display, guests, ordering
from labkit.console import Console, Line
from labkit.display import CloneReport, DemoReport, ServerReport
from labkit.errors import ConsoleTimeout, GuestFailed, LabError
from labkit.guests import Guest, Wish
from labkit.host import Host
from labkit.lab import Lab, Report
from labkit.operator import Operator
from labkit.ordering import Cloning, Ordered
from nova_trusted_clone.clone.enrolment import EnrolmentError
from nova_trusted_clone.transport.rpc import RpcError

OUTPUT_LIMIT_S = 120.0
WATCH_S = 0.005
# A guest says each of its lines every two seconds; a busy one takes longer.
SAID_LIMIT_S = 15.0


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """What was asked for on the command line."""

    count: int = 1
    memory_mib: int = 256
    memory_mode: str = "lazy"
    vtpm_mode: str = "new"
    keep: bool = False


def run(lab: Lab, options: DemoOptions, say: Report, terminal: Terminal) -> bool:
    """Build everything, clone, show the result, and take everything down unless it is to be kept.

    :returns: whether every clone is complete, its evidence accepted, and nothing damaged
    """
    lab.up(say)
    try:
        return _demo(lab, options, say, terminal)
    except (RpcError, EnrolmentError) as error:
        raise LabError(str(error)) from error
    finally:
        if options.keep:
            say("everything stays up; tools/lab down ends it")
        else:
            lab.down(say)


def _demo(lab: Lab, options: DemoOptions, say: Report, terminal: Terminal) -> bool:
    operator = Operator(lab)
    say("enrolling both hosts, learning their PCRs, starting their agents")
    operator.prepare()
    has_vtpm = options.vtpm_mode != "none"
    operator.allow(allow_without_vtpm=not has_vtpm, allow_vtpm_derive=options.vtpm_mode == "derive")
    say(f"starting guest web-1 with {options.memory_mib} MiB on {lab.source.name}")
    source = guests.start(lab.source, Wish(memory_mib=options.memory_mib, vtpm=has_vtpm))
    source.wait_ready()
    source.console.check_itself()
    say(f"web-1 checks itself; cloning it {options.count} times to {lab.destination.name}")
    cloning = ordering.order(
        operator,
        source,
        lab.destination,
        count=options.count,
        memory_mode=options.memory_mode,
        vtpm_mode=options.vtpm_mode,
    )
    watches = [FirstOutput(lab.destination, clone, cloning.ordered_at) for clone in cloning.clones]
    ended = display.follow(cloning.poll, terminal)
    report = _report(cloning, ended, watches)
    display.show_report(report, terminal)
    good = all(clone.evidence == "accepted" for clone in report.clones)
    return good and all("damaged" not in clone.server.self_check for clone in report.clones)


class FirstOutput:
    """Notes when a clone first printed anything. It watches from the order on, as nobody tells."""

    def __init__(self, host: Host, clone: Ordered, ordered_at: float) -> None:
        self._host = host
        self._clone = clone
        self._ordered_at = ordered_at
        self.after_s: float | None = None
        self._thread = threading.Thread(target=self._watch, name="first-output", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        deadline = time.monotonic() + OUTPUT_LIMIT_S
        paths: list[pathlib.Path] = []
        while time.monotonic() < deadline:
            paths = paths or serial_paths(self._host, self._clone.uuid)
            if any(path.exists() and path.stat().st_size for path in paths):
                self.after_s = time.monotonic() - self._ordered_at
                return
            time.sleep(WATCH_S)


def serial_paths(host: Host, server_uuid: str) -> list[pathlib.Path]:
    """The files behind a guest's serial ports, the first port first; none when it does not run."""
    try:
        with guests.connected(host) as connection:
            definition = ET.fromstring(connection.lookupByUUIDString(server_uuid).XMLDesc(0))
    except libvirt.libvirtError:
        return []
    ports = [
        (target.get("port", ""), source.get("path", ""))
        for port in definition.findall("devices/serial")
        if (target := port.find("target")) is not None
        and (source := port.find("source")) is not None
    ]
    return [pathlib.Path(path) for _, path in sorted(ports)]


def _report(
    cloning: Cloning[Guest, Host],
    ended: tuple[display.CloneProgress, ...],
    watches: list[FirstOutput],
) -> DemoReport:
    clones = [
        _complete(cloning, clone, watch)
        if progress.phase == "complete"
        else _failed(cloning, clone, progress)
        for clone, progress, watch in zip(cloning.clones, ended, watches, strict=True)
    ]
    return DemoReport(_guest_report(cloning.source), cloning.pause_s() * 1e3, tuple(clones))


def _complete(cloning: Cloning[Guest, Host], clone: Ordered, watch: FirstOutput) -> CloneReport:
    """The counts are those of the evidence, which both hosts have signed."""
    told = cloning.evidence(clone)
    server = _clone_report(cloning, clone)
    verdict = ordering.verdict_text(cloning.operator, json.dumps(told).encode(), clone.nonce)
    return CloneReport(
        server=server,
        first_output_s=watch.after_s,
        complete_s=cloning.ended_s.get(clone.clone_id),
        pages_verified=told["clone"]["counts"]["leaves"],
        bytes_verified=told["clone"]["counts"]["bytes"],
        evidence=verdict,
    )


def _failed(
    cloning: Cloning[Guest, Host], clone: Ordered, progress: display.CloneProgress
) -> CloneReport:
    server = ServerReport(
        clone.name, cloning.destination.name, clone.uuid, "", "", "", "does not run"
    )
    return CloneReport(
        server=server,
        first_output_s=None,
        complete_s=None,
        pages_verified=progress.pages_verified,
        bytes_verified=progress.bytes_verified,
        evidence="none: the clone failed",
    )


def _guest_report(guest: Guest) -> ServerReport:
    return _server_report(guest.name, guest.host, guest.uuid, guest.console)


def _clone_report(cloning: Cloning[Guest, Host], clone: Ordered) -> ServerReport:
    paths = serial_paths(cloning.destination, clone.uuid)
    if not paths:
        raise LabError(f"{clone.name} is complete, but does not run on {cloning.destination.name}")
    return _server_report(clone.name, cloning.destination, clone.uuid, Console(paths[0]))


def _said(console: Console, kind: str, since: int) -> Line | None:
    """What a guest says of itself next; None when it has no such part."""
    try:
        return console.wait_for(kind, timeout_s=SAID_LIMIT_S, since=since)
    except (ConsoleTimeout, GuestFailed):
        return None


def _server_report(name: str, host: Host, server_uuid: str, console: Console) -> ServerReport:
    """Who a guest is and how it is, all in its own words, from now on."""
    since = console.size()
    try:
        found = console.check_itself(since=since)
        check = f"{found.pages} pages, {found.blocks} blocks, {found.bad} bad"
    except GuestFailed as error:
        check = f"damaged: {error}"
    nic, genid, tpm = (_said(console, kind, since) for kind in ("NIC", "GENID", "TPM"))
    return ServerReport(
        name=name,
        host=host.name,
        uuid=server_uuid,
        mac=nic["mac"] if nic else "none",
        genid=genid["value"] if genid else "none",
        ek_sha256=tpm["ek_rsa"]
        if tpm and tpm["ek_rsa"] != "none"
        else (tpm["ek_ecc"] if tpm else ""),
        self_check=check,
    )
