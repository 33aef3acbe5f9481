"""A server that Nova runs on Xen, its clone on the other host, and what its owner does with both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labkit.xen import servers
from labkit.xen.cloud import BOOTING_IMAGE, XenCloud
from labkit.xen.machine import Machine
from labkit.xen.servers import Server, openstack


@pytest.fixture(scope="module")
def web(cloud: XenCloud) -> Iterator[Server]:
    """A running server of the tenant's."""
    server = servers.create(cloud, "web")
    try:
        server.wait_for_status("ACTIVE")
        yield server
    finally:
        server.delete()


@pytest.fixture(scope="module")
def booted(cloud: XenCloud) -> Iterator[Server]:
    """One of an image without a kernel: firmware, a boot loader, a serial console that Nova keeps."""
    server = servers.create(cloud, "booted", image=BOOTING_IMAGE)
    try:
        server.wait_for_status("ACTIVE")
        yield server
    finally:
        server.delete()


def test_it_is_created_and_checks_itself(web: Server) -> None:
    guest = web.guest
    guest.wait_for("READY")
    assert guest.wait_for("TICK", guest.size()).number("bad") == 0


def test_its_owner_reads_its_console(cloud: XenCloud, web: Server) -> None:
    assert "READY" in console(cloud, web)


def test_a_clone_lives_on_and_goes_without_a_trace(cloud: XenCloud, web: Server) -> None:
    before = {machine.name: traces(machine) for machine in cloud.hosts.machines}
    clone = cloned(cloud, web, "twin")

    # An ordinary server from now on: it starts anew from files of its own, with its disk as it was.
    clone.ask("stop_server")
    clone.wait_for_status("SHUTOFF")
    since = clone.guest.size()
    clone.ask("start_server")
    clone.wait_for_status("ACTIVE")
    clone.guest.wait_for("READY", since)

    clone.delete()
    after = {machine.name: traces(machine) for machine in cloud.hosts.machines}
    assert after == before


def test_it_boots_anew(web: Server) -> None:
    since = web.guest.size()
    web.ask("reboot_server", "HARD")
    web.wait_for_status("ACTIVE")
    web.guest.wait_for("READY", since)


def test_one_that_boots_from_its_disk_is_cloned_too(cloud: XenCloud, booted: Server) -> None:
    booted.guest.wait_for("READY")
    assert "READY" in console(cloud, booted)
    cloned(cloud, booted, "booted-twin").delete()


def cloned(cloud: XenCloud, source: Server, name: str) -> Server:
    """A clone on the other host, made by its owner's command; both go on undamaged."""
    (row,) = openstack(cloud, "server", "clone", source.id, "--name", name, "--wait")
    clone = Server(cloud, row["Server ID"], source.boots_itself)
    assert (row["Phase"], row["Evidence"]) == ("complete", "holds")
    assert clone.status == "ACTIVE"
    assert clone.host != source.host
    for guest in (source.guest, clone.guest):
        since = guest.size()
        assert guest.wait_for("TICK", since).number("bad") == 0
        disk = guest.wait_for("DISKCHECK", since)
        assert disk.number("bad") == 0 and disk.number("blocks") > 0
    return clone


def console(cloud: XenCloud, server: Server) -> str:
    """What its owner reads of its console."""
    told = cloud.ask(lambda owner: owner.compute.get_server_console_output(server.id), "demo")
    return str(told["output"])


def traces(machine: Machine) -> set[str]:
    """Domains, servers' directories and vTPMs of a host."""
    found = machine.run(["virsh", "-c", "xen:///system", "list", "--all", "--name"]).split()
    for place in ("/var/lib/nova/instances", "/var/lib/nova-trusted-clone/domain-vtpms"):
        found += machine.run(["bash", "-c", f"ls {place} 2>/dev/null || true"]).split()
    # What all servers of a host share.
    return set(found) - {"_base", "locks", "compute_nodes"}
