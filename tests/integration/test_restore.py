"""A frozen guest is restored on the other host as somebody else, and runs."""

from __future__ import annotations

import pathlib
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from labkit.console import Console
from labkit.guests import Guest
from labkit.lab import Lab

from nova_trusted_clone.hypervisor.base import RestoreFailed
from nova_trusted_clone.hypervisor.qemu import connection
from nova_trusted_clone.hypervisor.qemu.destination import QemuDestination
from nova_trusted_clone.ports import Frozen, VtpmBlobs
from nova_trusted_clone.vtpm.swtpm import SwtpmFactory
from tests.unit.vtpm.pki import host_ca

from .freezing import Freeze, Sniffer, plan_of, running, someone_else, traces

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Files = dict[tuple[str, str], pathlib.Path]


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    with running(lab, name="origin", vcpus=2, disks=(64, 32), video=True) as made:
        yield made


@pytest.fixture(scope="module")
def frozen(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Frozen, Files]:
    """One freeze for all clones of this file, released before they start."""
    freeze = Freeze.begin(guest, "freeze")
    found = freeze.freeze()
    files = freeze.read_all(tmp_path_factory.mktemp("frozen"))
    freeze.await_taken()
    assert freeze.sources.failed_reason is None
    freeze.release()
    assert traces(guest, freeze.directory) == []
    return found, files


@pytest.fixture
def vtpm(lab: Lab) -> Iterator[VtpmBlobs]:
    root = lab.destination.run_dir / "vtpms"
    root.mkdir(mode=0o700)
    factory = SwtpmFactory(host_ca().issuer, root)
    yield factory.new("clone", []).hand_over()
    factory.close()
    shutil.rmtree(root)


def test_the_clone_runs_on_as_somebody_else(
    lab: Lab, guest: Guest, frozen: tuple[Frozen, Files], vtpm: VtpmBlobs
) -> None:
    host = lab.destination
    clone = someone_else("clone-1", 1)
    plan = plan_of(*frozen, host, clone, vtpm)
    destination = QemuDestination(host.uri, host.memory_backing_dir)
    sniffer = Sniffer(host)
    try:
        destination.restore(plan)
        console = Console(plan.directory / "console0.log")
        nic = console.wait_for(
            "NIC", lambda line: line["carrier"] == "1" and line["mac"] == clone.nics[0].mac
        )
        assert nic["mac"] != guest.definition.macs[0]
        assert console.check_itself(since=0).bad == 0
        genid = console.wait_for("GENID")
        tpm = console.wait_for("TPM")
        assert tpm["rc"] == "0"
        frames = sniffer.stop()
        addresses = {address for _, address in frames}
        assert clone.nics[0].mac in addresses
        assert guest.definition.macs[0] not in addresses
        assert genid["value"] != guest.console.last("GENID")["value"]  # type: ignore[index]
        theirs = guest.console.last("TPM")
        assert theirs is not None
        assert tpm["ek_rsa"] != theirs["ek_rsa"]
        assert tpm["random"] not in {
            line["random"] for line in guest.console.lines() if line.kind == "TPM"
        }
        destination.settle(clone, plan.directory)
        with connection.connected(host.uri) as libvirtd:
            root = ET.fromstring(connection.find(libvirtd, clone.uuid).XMLDesc(0))
        assert root.findtext("uuid") == clone.uuid
        assert root.findall("devices/disk/backingStore/source") == []
        assert console.check_itself().bad == 0
        assert guest.console.check_itself().bad == 0
    finally:
        destination.destroy(clone.uuid, plan.directory)
    require_nothing_left(lab, plan.directory)
    destination.destroy(clone.uuid, plan.directory)


def test_a_wrongly_guessed_id_is_learned(
    lab: Lab, frozen: tuple[Frozen, Files], vtpm: VtpmBlobs
) -> None:
    host = lab.destination
    plan = plan_of(*frozen, host, someone_else("learned", 6), vtpm)
    destination = QemuDestination(host.uri, host.memory_backing_dir)
    destination._last_id = 100_000
    try:
        destination.restore(plan)
        assert Console(plan.directory / "console0.log").check_itself().bad == 0
    finally:
        destination.destroy(plan.identity.uuid, plan.directory)
    require_nothing_left(lab, plan.directory)


def test_two_clones_of_one_freeze_write_to_nothing_in_common(
    lab: Lab, frozen: tuple[Frozen, Files], vtpm: VtpmBlobs
) -> None:
    host = lab.destination
    destination = QemuDestination(host.uri, host.memory_backing_dir)
    plans = [plan_of(*frozen, host, someone_else(f"twin-{n}", n), vtpm) for n in (2, 3)]
    try:
        for plan in plans:
            destination.restore(plan)
        for plan in plans:
            assert Console(plan.directory / "console0.log").check_itself().bad == 0
    finally:
        for plan in plans:
            destination.destroy(plan.identity.uuid, plan.directory)
            shutil.rmtree(plan.directory)


def test_memory_that_is_not_the_stores_is_never_run(
    lab: Lab, frozen: tuple[Frozen, Files], vtpm: VtpmBlobs, tmp_path: pathlib.Path
) -> None:
    """With a wrong memory directory QEMU would start on empty files of its own."""
    host = lab.destination
    plan = plan_of(*frozen, host, someone_else("nobody", 4), vtpm)
    destination = QemuDestination(host.uri, tmp_path)
    with pytest.raises(RestoreFailed, match="memory_backing_dir"):
        destination.restore(plan)
    assert (
        not (plan.directory / "console0.log").exists()
        or not Console(plan.directory / "console0.log").lines()
    )
    require_nothing_left(lab, plan.directory)


def test_a_store_that_is_not_mounted_is_noticed_before_anything_starts(
    lab: Lab, frozen: tuple[Frozen, Files], vtpm: VtpmBlobs
) -> None:
    host = lab.destination
    plan = plan_of(*frozen, host, someone_else("unmounted", 5), vtpm)
    plan.memory["pc.ram"].unlink()
    with pytest.raises(RestoreFailed, match="is the store mounted"):
        QemuDestination(host.uri, host.memory_backing_dir).restore(plan)
    require_nothing_left(lab, plan.directory)


def require_nothing_left(lab: Lab, directory: pathlib.Path) -> None:
    left = {path.name for path in directory.iterdir()} - {"store", "console0.log"}
    assert left == set()
    with connection.connected(lab.destination.uri) as libvirtd:
        assert libvirtd.listAllDomains() == []
    links = lab.destination.memory_backing_dir / "libvirt" / "qemu"
    assert [p.name for p in links.iterdir() if p.is_symlink()] == []
    shutil.rmtree(directory)
