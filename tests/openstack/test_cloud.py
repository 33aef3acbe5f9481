"""The cloud itself: if it lies, every other test on running services lies with it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from labkit import guests, netns
from labkit.cloud import settings
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server
from labkit.process import run
from openstack.connection import Connection

from tests.openstack.conftest import MakeServer

pytestmark = pytest.mark.integration
PORTS = (
    settings.MARIADB,
    settings.RABBITMQ,
    settings.MEMCACHED,
    settings.KEYSTONE,
    settings.PLACEMENT,
    settings.GLANCE,
    settings.NOVA,
    settings.NEUTRON,
    settings.BARBICAN,
)


def _definition(server: Server) -> ET.Element:
    with guests.connected(server.host) as connection:
        return ET.fromstring(connection.lookupByUUIDString(server.id).XMLDesc(0))


def test_services_listen_inside_and_nowhere_else(cloud: Cloud) -> None:
    """Inside, everything is reachable; the machine that the lab runs on shows none of it."""
    inside = cloud.control.sandbox.holder.pid
    assert [port for port in PORTS if not netns.listens(inside, port)] == []
    addresses = run([*netns.outside(), "ip", "-brief", "address"])
    assert "10.77.0." not in addresses
    assert "10.88.0." not in addresses


def test_a_server_boots_has_its_address_by_dhcp_and_checks_itself(web: Server) -> None:
    """What Nova tells of it, what libvirt made of it and what the guest finds are the same."""
    assert web.says_address()
    assert web.console.check_itself().bad == 0
    nic = web.console.wait_for("NIC", since=web.console.size())
    definition = _definition(web)
    assert nic["mac"] == definition.find("devices/interface/mac").get("address")  # type: ignore[union-attr]
    assert nic["ip"] == web.addresses[0]


def test_a_server_uses_its_vtpm(web: Server) -> None:
    """Its endorsement key is certified, and its state's key is in Barbican."""
    tpm = web.console.wait_for("TPM", since=web.console.size(), timeout_s=60)
    assert tpm["rc"] == "0"
    assert len(tpm["ek_rsa"]) == 64
    assert _definition(web).find("devices/tpm/backend/encryption") is not None


def test_the_console_log_is_what_the_guest_printed(demo: Connection, web: Server) -> None:
    """A tenant reads it through Nova."""
    told = demo.compute.get_server_console_output(web.id, length=200)["output"]
    assert "TICK n=" in told


def test_a_deleted_server_leaves_nothing(make_server: MakeServer, nothing_left) -> None:  # type: ignore[no-untyped-def]
    with nothing_left():
        make_server().delete()
