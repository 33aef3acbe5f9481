"""Nova's view of a host and of a guest, over a libvirt that answers as libxl's driver does."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import libvirt
import pytest
from nova import exception
from nova.virt.libvirt import config

from nova_trusted_clone.virt.xen import definition
from nova_trusted_clone.virt.xen.domain import XenGuest
from nova_trusted_clone.virt.xen.host import XenHost
from tests.unit.virt import xenguest
from tests.unit.virt.novaguest import DIRECTORY

MIB = 1 << 20


class Domain:
    """A domain, and what was attached to it and detached."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.attached: list[tuple[str, int]] = []
        self.detached: list[tuple[str, int]] = []

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        """Its number; -1 when it does not run."""
        return self._number

    def XMLDesc(self, flags: int = 0) -> str:  # noqa: N802 - libvirt's name
        """A PVH guest's, whatever of it is asked for."""
        del flags
        nova_xml = xenguest.guest(kernel=True).to_xml()
        return definition.of_guest(nova_xml, definition.Kind.PVH, f"{DIRECTORY}/console.log")

    def attachDeviceFlags(self, xml: str, flags: int = 0) -> None:  # noqa: N802 - libvirt's name
        """Remember it."""
        self.attached.append((xml, flags))

    def detachDeviceFlags(self, xml: str, flags: int = 0) -> None:  # noqa: N802 - libvirt's name
        """Remember it."""
        self.detached.append((xml, flags))


class Connection:
    """A host with two processors and 3 GiB, of which 1 GiB is free."""

    def __init__(self) -> None:
        self.domains = [Domain(0), Domain(7), Domain(-1)]

    def listAllDomains(self, _flags: int) -> list[Domain]:  # noqa: N802 - libvirt's name
        """dom0 among them."""
        return self.domains

    def getInfo(self) -> list[Any]:  # noqa: N802 - libvirt's name
        """As virNodeGetInfo has it."""
        return ["x86_64", 3072, 2, 2400, 1, 1, 2, 1]

    def getFreeMemory(self) -> int:  # noqa: N802 - libvirt's name
        """Bytes that no domain has."""
        return 1024 * MIB

    def getCPUMap(self) -> Any:  # noqa: N802 - libvirt's name
        """libxl's driver has none."""
        raise libvirt.libvirtError("this function is not supported by the connection driver")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> XenHost:
    """Nova's host over such a connection."""
    made = XenHost("xen:///system")
    connection = Connection()
    monkeypatch.setattr(made, "get_connection", lambda: connection)
    return made


def test_dom0_is_no_server(host: XenHost) -> None:
    assert [domain.ID() for domain in host.list_instance_domains(only_running=False)] == [7, -1]


def test_every_processor_may_run_guests(host: XenHost) -> None:
    assert host.get_online_cpus() == host.get_available_cpus() == {0, 1}


def test_used_is_what_xen_has_given_away(host: XenHost) -> None:
    assert host.get_memory_mb_used() == 2048


def test_a_disk_is_attached_as_xen_has_it() -> None:
    domain = Domain(7)
    XenGuest(domain).attach_device(xenguest.disk("xvdd", "volume"), persistent=True, live=True)
    ((xml, flags),) = domain.attached
    assert flags == libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_AFFECT_LIVE
    disk = ET.fromstring(xml)
    assert disk.find("target").attrib == {"dev": "xvdd", "bus": "xen"}
    assert disk.find("driver").attrib == {"name": "qemu", "type": "qcow2"}


def test_a_port_is_detached_as_it_was_attached() -> None:
    domain = Domain(7)
    guest = XenGuest(domain)
    (port, *_others) = guest.get_all_devices(config.LibvirtConfigGuestInterface)
    guest.attach_device(port)
    guest.detach_device(port)
    assert domain.detached == domain.attached
    assert ET.fromstring(domain.attached[0][0]).find("model").get("type") == "netfront"


def test_what_xen_has_not_is_told_to_whoever_asked() -> None:
    domain = Domain(7)
    with pytest.raises(exception.UnsupportedHardware, match="no rng"):
        XenGuest(domain).attach_device(config.LibvirtConfigGuestRng())
    assert domain.attached == []
