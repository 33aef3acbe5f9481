"""Servers as Nova makes them: several processors, disks and ports, a config drive; a vTPM with a secret of its owner's."""

from __future__ import annotations

import base64
import functools
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from labkit import guests
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server
from labkit.console import Line
from openstack.connection import Connection

from tests.openstack.clones import Clones
from tests.openstack.conftest import MakeServer
from tests.openstack.tenant import LIMIT_S, Tenant

DISKS = ("vda", "vdb", "vdc")
BACK = "192.168.77."


@pytest.fixture(scope="module")
def tenant(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """Tenant demo."""
    return Tenant(cloud, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def back(demo: Connection) -> Iterator[str]:
    """The tenant's own network."""
    network = demo.network.create_network(name="back")
    subnet = demo.network.create_subnet(
        network_id=network.id, name="back", ip_version=4, cidr=f"{BACK}0/24", gateway_ip=None
    )
    yield str(network.name)
    demo.network.delete_subnet(subnet)
    demo.network.delete_network(network)


@pytest.fixture(scope="module")
def full(_server_maker: MakeServer, back: str) -> Iterator[Server]:
    """Two processors; root, ephemeral and swap disk and a config drive; ports on two networks."""
    data = base64.b64encode(b"of the source").decode()
    server = _server_maker(
        "full", flavor="disks", networks=("lan", back), config_drive=True, user_data=data
    )
    yield server
    server.delete()


@pytest.fixture(scope="module")
def clones(tenant: Tenant, full: Server) -> Iterator[Clones]:
    """Clones of it."""
    made = Clones(tenant, full)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def clone(clones: Clones) -> Server:
    """A complete clone of it."""
    return clones.made("full-clone")


def require_whole(server: Server, since: int = 0) -> None:
    """Every disk is under the guest's checks and good; every port has its address in the guest."""
    console = server.console
    for disk in DISKS:
        line = console.wait_for(
            "DISKCHECK", functools.partial(_is_of, disk), timeout_s=LIMIT_S, since=since
        )
        assert line["bad"] == "0"
    for address in server.addresses:
        console.wait_for(
            "NIC", lambda line, a=address: line.values.get("ip") == a, LIMIT_S, console.size()
        )
    assert server.answers_ping()


def _is_of(disk: str, line: Line) -> bool:
    return line["disk"] == disk


def definition(server: Server) -> ET.Element:
    with guests.connected(server.host) as connection:
        return ET.fromstring(connection.lookupByUUIDString(server.id).XMLDesc(0))


def test_the_source_has_all_of_it(full: Server) -> None:
    require_whole(full)
    assert any(address.startswith(BACK) for address in full.addresses)


def test_its_clone_has_all_of_it(clone: Server, full: Server) -> None:
    require_whole(clone, clone.console.size())
    assert not set(clone.addresses) & set(full.addresses)
    there = definition(clone)
    assert there.findtext("vcpu") == "2"
    assert len(there.findall("devices/interface")) == 2
    assert clone.console.check_itself().bad == 0


def test_its_clone_starts_anew_with_a_config_drive_of_its_own(clone: Server, full: Server) -> None:
    """While it runs on the source's memory it keeps the source's: a mounted file system must not change."""
    drive = clone.directory / "disk.config"
    assert full.id.encode() in flat(clone, drive)
    clone.client.compute.reboot_server(clone.id, "HARD")
    clone.wait_for_status()
    clone.wait_ready(LIMIT_S)
    require_whole(clone)
    now = flat(clone, drive)
    assert clone.id.encode() in now and full.id.encode() not in now
    assert b"of the source" in now, "its user data is the source's"


def flat(server: Server, image: pathlib.Path) -> bytes:
    """An image's content as a guest sees it, whatever it lies upon."""
    target = server.cloud.paths.root / "flat"
    inside = server.host.nova / "instances" / server.id / image.name
    server.host.run(["qemu-img", "convert", "-U", "-O", "raw", inside, target])
    try:
        return target.read_bytes()
    finally:
        target.unlink()


def test_a_vtpm_whose_secret_only_its_owner_reads(
    tenant: Tenant, make_server: MakeServer, demo: Connection
) -> None:
    """That is Nova's default: the conductor orders the clone with the tenant's token. The clone's owner can start it anew."""
    source = make_server(flavor="guarded")
    clones = Clones(tenant, source)
    try:
        clone = clones.made("guarded-clone", *tenant.operator_files)
        assert clone.says_address()
        demo.compute.stop_server(clone.id)
        clone.wait_for_status("SHUTOFF")
        demo.compute.start_server(clone.id)
        clone.wait_for_status()
        clone.wait_ready(LIMIT_S)
        assert clone.answers_ping()
    finally:
        clones.remove()
