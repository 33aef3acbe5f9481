"""A server that Nova starts on Xen with a kernel, its clone on the other host, and what its owner does with both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labkit.xen import servers
from labkit.xen.cloud import XenCloud
from labkit.xen.servers import Server

from tests.xen_cloud.stories import cloned, console, traces


@pytest.fixture(scope="module")
def web(cloud: XenCloud) -> Iterator[Server]:
    """A running server of the tenant's."""
    server = servers.create(cloud, "web")
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
