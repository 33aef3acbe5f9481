"""``tools/lab demo --xen``: a guest of one Xen host cloned to the other while it runs, with the table and the evidence."""

from __future__ import annotations

import json
import time

from rich.console import Console as Terminal

from labkit import display, ordering
from labkit.display import CloneProgress, CloneReport, DemoReport, ServerReport
from labkit.errors import GuestFailed
from labkit.ordering import Cloning, Ordered
from labkit.xen import guests
from labkit.xen.fleet import Fleet
from labkit.xen.guests import Wish, XenGuest
from labkit.xen.hosts import Report, XenHosts
from labkit.xen.machine import Machine

# The guest found its whole disk and memory right once over after that.
CHECK_LIMIT_S = 600.0
POLL_S = 2.0


def run(
    hosts: XenHosts,
    wish: Wish,
    say: Report,
    terminal: Terminal,
    *,
    count: int = 1,
    memory_mode: str = "lazy",
    keep: bool = False,
) -> bool:
    """Bring both hosts up, clone, show what came of it, and take the hosts down unless they are to be kept.

    :returns: whether every clone is complete, its evidence accepted, and nothing damaged
    """
    hosts.up(say)
    try:
        return _demo(hosts, wish, say, terminal, count, memory_mode)
    finally:
        if keep:
            say("the Xen hosts stay up; tools/lab xen down ends them")
        else:
            hosts.down()


def _demo(
    hosts: XenHosts, wish: Wish, say: Report, terminal: Terminal, count: int, memory_mode: str
) -> bool:
    fleet = Fleet(hosts)
    say("enrolling both hosts, learning their PCRs, starting their agents")
    # Xen has no generation id for PVH and PV guests.
    fleet.prepare(require_generation_id=False, allow_without_vtpm=not wish.vtpm)
    say(
        f"starting {wish.kind.upper()} guest {wish.name} with {wish.memory_mib} MiB on {hosts.source.name}"
    )
    source = guests.boot(hosts.source, hosts.paths.cache, wish)
    if wish.vtpm:
        fleet.make_vtpm(hosts.source, source.uuid)
    say(f"{wish.name} checks itself; cloning it {count} times to {hosts.destination.name}")
    cloning = ordering.order(
        fleet,
        source,
        hosts.destination,
        count=count,
        memory_mode=memory_mode,
        vtpm_mode="new" if wish.vtpm else "none",
    )
    ended = follow(cloning, terminal)
    report = _report(cloning, source, ended)
    display.show_report(report, terminal)
    good = all(clone.evidence == "accepted" for clone in report.clones)
    return good and all("damaged" not in clone.server.self_check for clone in report.clones)


def follow(cloning: Cloning[XenGuest, Machine], terminal: Terminal) -> tuple[CloneProgress, ...]:
    """Show how far the clones are until they have ended."""

    def poll() -> tuple[CloneProgress, ...]:
        time.sleep(POLL_S)
        return cloning.poll()

    return tuple(display.follow(poll, terminal))


def _report(
    cloning: Cloning[XenGuest, Machine], source: XenGuest, ended: tuple[CloneProgress, ...]
) -> DemoReport:
    clones = [
        _complete(cloning, source, clone)
        if progress.phase == "complete"
        else _failed(clone, progress)
        for clone, progress in zip(cloning.clones, ended, strict=True)
    ]
    return DemoReport(_server(source, ""), cloning.pause_s() * 1e3, tuple(clones))


def _complete(cloning: Cloning[XenGuest, Machine], source: XenGuest, clone: Ordered) -> CloneReport:
    told = cloning.evidence(clone)
    guest = XenGuest(cloning.destination, clone.name, clone.uuid, source.definition)
    verdict = ordering.verdict_text(cloning.operator, json.dumps(told).encode(), clone.nonce)
    return CloneReport(
        server=_server(guest, (told["clone"]["clone_ek_certificate_sha256"] or "none")[:16]),
        first_output_s=None,
        complete_s=cloning.ended_s.get(clone.clone_id),
        pages_verified=told["clone"]["counts"]["leaves"],
        bytes_verified=told["clone"]["counts"]["bytes"],
        evidence=verdict,
    )


def _failed(clone: Ordered, progress: CloneProgress) -> CloneReport:
    server = ServerReport(
        clone.name, "", clone.uuid, "", "", "", f"does not run: {progress.reason}"
    )
    return CloneReport(server, None, None, progress.pages_verified, progress.bytes_verified, "none")


def _server(guest: XenGuest, ek: str) -> ServerReport:
    """Who a guest is and how it is, in its own words from now on."""
    since = guest.size()
    try:
        disk = guest.wait_for("DISKCHECK", since, CHECK_LIMIT_S)
        tick = guest.wait_for("TICK", since, CHECK_LIMIT_S)
        nic = guest.wait_for("NIC", since, CHECK_LIMIT_S)
    except GuestFailed as error:
        return ServerReport(
            guest.name, guest.host.name, guest.uuid, "", "none", ek, f"damaged: {error}"
        )
    check = (
        f"{tick['pages']} pages, {disk['blocks']} blocks, {int(tick['bad']) + int(disk['bad'])} bad"
    )
    return ServerReport(guest.name, guest.host.name, guest.uuid, nic["mac"], "none", ek, check)
