"""The lab itself: if it lies, every other integration test lies with it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import time
import xml.etree.ElementTree as ET

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from labkit import libvirtd
from labkit.errors import LabError
from labkit.guests import Guest
from labkit.host import Host
from labkit.lab import Lab
from labkit.operator import Operator
from labkit.paths import LabPaths
from labkit.process import Process, run
from labkit.sandbox import Sandbox, inhabitants

from nova_trusted_clone.clone import identity
from nova_trusted_clone.core.attest import policy
from nova_trusted_clone.core.attest.certchain import verify_chain
from nova_trusted_clone.core.attest.quote import HOST_PCRS
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.tpm.esys import EsysTpm

pytestmark = pytest.mark.integration


def test_the_guest_checks_itself_and_knows_who_it_is(source_guest: Guest) -> None:
    """Memory, disk, generation id and MAC as the guest sees them are those that libvirt gave it."""
    found = source_guest.console.check_itself()
    assert found.bad == 0
    assert found.pages > 10_000
    definition = ET.fromstring(source_guest.domain_xml())
    genid = source_guest.console.wait_for("GENID")
    assert genid["value"] == definition.findtext("genid")
    nic = source_guest.console.wait_for("NIC", lambda line: line["carrier"] == "1")
    assert nic["mac"] == source_guest.definition.macs[0]


def test_the_guest_uses_its_vtpm(source_guest: Guest) -> None:
    """Random numbers differ, PCR 16 is what the guest's extends make of it, and there are EK certificates."""
    first = source_guest.console.wait_for("TPM")
    second = source_guest.console.wait_for("TPM", lambda line: line.number("n") > first.number("n"))
    assert (first["rc"], second["rc"]) == ("0", "0")
    assert first["random"] != second["random"]
    assert first["pcr16"] != second["pcr16"]
    assert second["pcr16_kept"] == "1"
    assert len(second["ek_rsa"]) == 64


def test_two_disks_two_processors_and_a_video_device(start_guest: object) -> None:
    """The variants that a freeze must cope with."""
    guest: Guest = start_guest(name="wide", disks=(32, 16), vcpus=2, video=True)  # type: ignore[operator]
    assert guest.console.check_itself().bad == 0


def test_hosts_reach_each_other_and_nothing_else(lab: Lab) -> None:
    """The cable works both ways; there is no route to anywhere."""
    for host, peer in ((lab.source, lab.destination), (lab.destination, lab.source)):
        routes = host.run(["ip", "route", "get", peer.address])
        assert "dev lab0" in routes
        assert "default" not in host.run(["ip", "route"])


def test_the_vtpms_of_an_enrolled_host_are_certified_by_its_vtpm_ca(
    lab: Lab, operator: Operator
) -> None:
    """As libvirt has them made inside the host: the EK certificate chains to the operator's vTPM root through this host."""
    place = lab.source.run_dir / "probe-vtpm"
    place.mkdir()
    command = [
        "swtpm_setup",
        "--tpm2",
        "--tpmstate",
        str(place),
        "--create-ek-cert",
        "--vmid",
        "probe",
    ]
    lab.source.run([*command, "--write-ek-cert-files", str(place), "--overwrite"])
    written = sorted(place.glob("ek-*.crt"))
    assert written
    chain = identity.load(lab.source.identity).vtpm_ca_certificate.read_bytes()
    issuer = x509.load_pem_x509_certificate(chain).public_bytes(serialization.Encoding.DER)
    for path in written:
        if "rsa" not in path.name:
            continue
        verdict = verify_chain(
            path.read_bytes(), (issuer,), operator.authority.anchors(), Role.VTPM, int(time.time())
        )
        assert verdict.ok, str(verdict)
    shutil.rmtree(place)


def test_a_reboot_with_another_firmware_shows_in_pcr_0_alone(lab: Lab, operator: Operator) -> None:
    """What a tampered host looks like: its log and its TPM agree, its policy does not know it."""
    trusted = policy.Policy.parse(operator.policy.read_bytes())
    lab.destination.reboot(firmware="implant")
    with contextlib.closing(EsysTpm(lab.destination.tpm)) as tpm:
        found = trusted.check_host(lab.destination.name, tpm.read_pcrs(HOST_PCRS))
    assert not found.ok
    assert len(found.failures) == 1
    lab.destination.reboot()
    with contextlib.closing(EsysTpm(lab.destination.tpm)) as tpm:
        assert trusted.check_host(lab.destination.name, tpm.read_pcrs(HOST_PCRS)).ok


def test_a_mount_made_outside_below_shared_is_seen_inside(lab: Lab) -> None:
    """A store's FUSE mount must reach the host's QEMU."""
    place = lab.source.shared / "probe"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "probe", place])
    try:
        (place / "file").write_text("here")
        assert lab.source.run(["cat", str(place / "file")]) == "here"
    finally:
        run(["umount", place])


def test_an_up_that_fails_halfway_leaves_nothing(
    lab: Lab, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host is up when the second fails: both are gone afterwards, and the reason is told."""
    other = Lab.at(LabPaths(tmp_path / "other", lab.paths.cache))

    def fail_on_the_second(sandbox: Sandbox, uri: str, listens: bool) -> Process:
        if sandbox.hostname == other.destination.name:
            raise LabError("no libvirtd today")
        return started(sandbox, uri, listens)

    started = libvirtd.start
    monkeypatch.setattr(libvirtd, "start", fail_on_the_second)
    with pytest.raises(LabError, match="no libvirtd today"):
        other.up(print)
    assert other.leftovers() == []


def _kill(host: Host, name: str) -> None:
    for found in inhabitants(host.marker):
        if pathlib.Path(f"/proc/{found.pid}/comm").read_text().strip() == name:
            os.kill(found.pid, signal.SIGKILL)


def test_down_works_after_everything_was_killed(lab: Lab, tmp_path: pathlib.Path) -> None:
    """Another lab whose holder and libvirtd are killed goes down without a rest."""
    other = Lab.at(LabPaths(tmp_path / "other", lab.paths.cache))
    other.up(print)
    for name in ("sleep", "libvirtd"):
        _kill(other.source, name)
    other.down(print)
    assert other.leftovers() == []
    other.down(print)
