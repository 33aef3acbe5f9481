"""A server as Nova makes it is cloned to where Nova wants it: its files, its ports, its console; and is kept by libvirt."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import libvirt
import pytest
from labkit.console import Console
from labkit.guests import Guest
from labkit.lab import Lab

from nova_trusted_clone.hypervisor.qemu import connection
from nova_trusted_clone.hypervisor.qemu.destination import QemuDestination
from nova_trusted_clone.hypervisor.qemu.source import QemuSource
from nova_trusted_clone.ports import HostSide, Identity, NicIdentity
from nova_trusted_clone.vtpm.swtpm import SwtpmFactory
from tests.unit.vtpm.pki import host_ca

from . import novalike
from .freezing import Freeze, plan_of, traces

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

UUID = "dddddddd-0000-4000-8000-000000000001"
MACS = ("fa:16:3e:dd:00:01", "fa:16:3e:dd:00:02")


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    made = novalike.start(lab.source, "instance-00000001")
    try:
        made.console.wait_for("READY", timeout_s=150)
        yield made
    finally:
        made.destroy()
        with connection.connected(lab.source.uri) as libvirtd:
            libvirtd.lookupByUUIDString(made.uuid).undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_TPM | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            )


def instance(directory: pathlib.Path) -> Identity:
    side = HostSide(
        interfaces=tuple(
            novalike.host_side_interface(mac, f"tap-clone-{n}") for n, mac in enumerate(MACS)
        ),
        disks={"vda": str(directory / "disk"), "sda": str(directory / "disk.config")},
        metadata="<metadata><x:instance xmlns:x='urn:x'>clone</x:instance></metadata>",
        graphics=("<graphics type='vnc' autoport='yes' listen='127.0.0.1'/>",),
        characters=(
            f"<serial type='pty'><log file='{directory}/console.log' append='off'/><target port='0'/></serial>",
        ),
        persistent=True,
    )
    return Identity("instance-00000002", UUID, tuple(NicIdentity(mac) for mac in MACS), side)


def test_a_server_of_novas_is_cloned_to_where_nova_wants_it(
    lab: Lab, guest: Guest, tmp_path: pathlib.Path
) -> None:
    host = lab.destination
    shape = QemuSource(guest.host.uri).inspect(guest.uuid)
    assert shape.obstacles == ()
    assert {disk.target for disk in shape.disks} == {"vda", "sda"}
    freeze = Freeze.begin(guest, "freeze")
    frozen = freeze.freeze()
    files = freeze.read_all(tmp_path)
    freeze.await_taken()
    freeze.release()
    assert traces(guest, freeze.directory) == []
    directory = host.base / "instances" / UUID
    directory.mkdir(parents=True)
    root = host.run_dir / "vtpms"
    factory = SwtpmFactory(host_ca().issuer, root)
    clone = instance(directory)
    plan = plan_of(frozen, files, host, clone, factory.new("clone", []).hand_over())
    destination = QemuDestination(host.uri, host.memory_backing_dir)
    try:
        destination.restore(plan)
        console = Console(directory / "console.log")
        assert console.check_itself(since=0).bad == 0
        for mac in MACS:
            console.wait_for("NIC", lambda line, mac=mac: line["mac"] == mac)
        require_own_parts(host.uri, directory)
        assert (directory / "disk.config").exists()
        require_drive_of_the_source(directory / "disk.config", guest)
        destination.settle(clone, plan.directory)
        assert json.loads(told(directory / "disk")).get("backing-filename") is None
        assert destination.exists(UUID, plan.directory)
        with connection.connected(host.uri) as libvirtd:
            domain = connection.find(libvirtd, UUID)
            domain.destroy()
            # It is kept, and starts without the store.
            shutil.rmtree(plan.directory / "store")
            domain.create()
            assert not destination.exists(UUID, plan.directory)
    finally:
        destination.destroy(UUID, plan.directory)
        factory.close()
        shutil.rmtree(root)
    with connection.connected(host.uri) as libvirtd:
        assert libvirtd.listAllDomains() == []
    assert {path.name for path in directory.iterdir()} <= {"console.log"}
    shutil.rmtree(plan.directory)
    shutil.rmtree(directory)


def require_own_parts(uri: str, directory: pathlib.Path) -> None:
    with connection.connected(uri) as libvirtd:
        domain = connection.find(libvirtd, UUID)
        assert domain.isPersistent()
        running = ET.fromstring(domain.XMLDesc(0))
        kept = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    assert kept.find("memoryBacking") is None
    assert kept.findtext("metadata/{urn:x}instance") == "clone"
    for root in (running, kept):
        sources = [e.get("file") for e in root.iterfind("devices/disk/source")]
        assert sources == [str(directory / "disk"), str(directory / "disk.config")]
        assert [e.get("address") for e in root.iterfind("devices/interface/mac")] == [*MACS]
        assert [e.get("size") for e in root.iterfind("devices/interface/mtu")] == ["1400"] * 2
    taps = [e.get("dev") for e in running.iterfind("devices/interface/target")]
    assert taps == ["tap-clone-0", "tap-clone-1"]
    entries = {e.get("name"): e.text for e in running.iterfind("sysinfo/system/entry")}
    assert (entries["uuid"], entries["serial"]) == (UUID, UUID)


def require_drive_of_the_source(path: pathlib.Path, guest: Guest) -> None:
    """All of it, in an image of its own."""
    assert json.loads(told(path)).get("backing-filename") is None
    theirs = guest.directory / "disk.config"
    command = ["qemu-img", "compare", "-U", "-f", "raw", "-F", "qcow2", str(theirs), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def told(path: pathlib.Path) -> str:
    command = ["qemu-img", "info", "-U", "--output=json", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
