"""Everything that a server or a clone adds to a cloud: on its hosts, and in the services' databases.

What is left is not looked for by name: the inventory is taken before a story and must be the same after it. The databases
themselves are asked, so that no API can hide what it does not show.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from labkit import guests
from labkit.cloud import database
from labkit.cloud.cloud import Cloud
from labkit.cloud.nodes import Compute

from tests.integration import clonelab

# Nova's periodic tasks and Neutron's agents need their time.
SETTLE_S = 90.0
POLL_S = 1.0
# Nova's API knows a server no more some seconds before its database and Placement forget it.
STILL_S = 5.0
# What is there for all servers of a host, or of the cloud.
SHARED_PLACES = ("_base", "locks", "compute_nodes", "snapshots")
QUERIES = {
    "server": ("nova_cell1", "SELECT uuid FROM instances WHERE deleted = 0"),
    "server without a host": ("nova_cell0", "SELECT uuid FROM instances WHERE deleted = 0"),
    "server mapping": (
        "nova_api",
        "SELECT instance_uuid FROM instance_mappings WHERE NOT queued_for_delete",
    ),
    "build request": ("nova_api", "SELECT instance_uuid FROM build_requests"),
    "allocation": ("placement", "SELECT DISTINCT consumer_id FROM allocations"),
    "port": ("neutron", "SELECT id FROM ports"),
    "port binding": ("neutron", "SELECT CONCAT(port_id, ' ', host) FROM ml2_port_bindings"),
    "secret": ("barbican", "SELECT id FROM secrets WHERE deleted = 0"),
}


def of_cloud(cloud: Cloud) -> frozenset[str]:
    """Everything there is, in words."""
    return frozenset(
        [
            *(f"{host.name}: {what}" for host in cloud.computes for what in of_host(host)),
            *of_databases(cloud),
        ]
    )


def settled(cloud: Cloud, limit_s: float = SETTLE_S) -> frozenset[str]:
    """Everything there is, once former stories' servers are on their way no more: it has not changed for a while."""
    deadline = time.monotonic() + limit_s
    found, since = of_cloud(cloud), time.monotonic()
    while time.monotonic() - since < STILL_S:
        assert time.monotonic() < deadline, "servers of former stories still come and go"
        time.sleep(POLL_S)
        now = of_cloud(cloud)
        if now != found:
            found, since = now, time.monotonic()
    return found


def of_databases(cloud: Cloud) -> Iterator[str]:
    """What the services believe."""
    for what, (name, query) in QUERIES.items():
        for line in database.query(cloud.control, query, name).splitlines():
            yield f"{what} {line}"


def of_host(host: Compute) -> Iterator[str]:
    """What there is on a host: besides the engine's own, Nova's files, libvirt's secrets, interfaces and their ports."""
    yield from clonelab.inventory(host)
    for path in (host.nova_files / "instances").iterdir():
        if path.name not in SHARED_PLACES:
            yield f"directory {path.name}"
    with guests.connected(host) as connection:
        yield from (f"secret {secret.UUIDString()}" for secret in connection.listAllSecrets())
    for line in host.run(["ip", "-o", "-brief", "link"]).splitlines():
        if line.startswith("tap"):
            yield f"interface {line.split()[0]}"
    for port in host.run(["ovs-vsctl", "list-ports", "br-int"]).split():
        yield f"switch port {port}"


@contextlib.contextmanager
def nothing_left(cloud: Cloud, settle_s: float = SETTLE_S) -> Iterator[None]:
    """The cloud is afterwards as before, given ``settle_s`` to tidy up."""
    before = settled(cloud, settle_s)
    yield
    require_same(cloud, before, settle_s)


def require_same(cloud: Cloud, before: frozenset[str], settle_s: float = SETTLE_S) -> None:
    """Wait until there is what was there before, and nothing else."""
    deadline = time.monotonic() + settle_s
    while (now := of_cloud(cloud)) != before:
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {sorted(now - before)}; lost: {sorted(before - now)}")
        time.sleep(POLL_S)
