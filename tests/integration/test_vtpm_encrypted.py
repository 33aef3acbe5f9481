"""A vTPM under a secret of libvirt's, as Nova's servers have it: it vouches for its server, and clones get their own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

import libvirt
import pytest
from labkit.console import Console
from labkit.guests import Guest
from labkit.host import Host
from labkit.lab import Lab

from nova_trusted_clone.hypervisor.base import RestoreFailed
from nova_trusted_clone.hypervisor.qemu import connection, definition
from nova_trusted_clone.hypervisor.qemu.destination import QemuDestination
from nova_trusted_clone.hypervisor.qemu.secrets import LibvirtPassphrases
from nova_trusted_clone.ports import (
    Frozen,
    HostSide,
    Identity,
    Passphrase,
    PassphraseUnavailable,
    VtpmBlobs,
)
from nova_trusted_clone.vtpm import blobs as state_blobs
from nova_trusted_clone.vtpm.base import VtpmError, VtpmStateError
from nova_trusted_clone.vtpm.swtpm import SwtpmFactory
from tests.unit.vtpm.pki import host_ca

from .freezing import Freeze, plan_of, running, someone_else

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

OURS = Passphrase(b"of-the-source-" + os.urandom(32).hex().encode())
THEIRS = Passphrase(b"of-the-clone-" + os.urandom(32).hex().encode())
LOG = [(pcr, hashlib.sha256(b"event %d" % pcr).digest()) for pcr in range(1, 8)]


@contextlib.contextmanager
def secret(host: Host, passphrase: Passphrase, *, private: bool = False) -> Iterator[str]:
    """A secret in a host's libvirt, defined as Nova defines a vTPM's."""
    name = str(uuid.uuid4())
    kept = "yes" if private else "no"
    with connection.connected(host.uri) as libvirtd:
        made = libvirtd.secretDefineXML(
            f"<secret ephemeral='yes' private='{kept}'><uuid>{name}</uuid>"
            f"<usage type='vtpm'><name>{name}</name></usage></secret>"
        )
        made.setValue(passphrase.value)
        try:
            yield name
        finally:
            made.undefine()


@pytest.fixture
def factory(lab: Lab) -> Iterator[SwtpmFactory]:
    root = lab.destination.run_dir / "vtpms"
    root.mkdir(mode=0o700)
    made = SwtpmFactory(host_ca().issuer, root)
    yield made
    made.close()
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    with (
        secret(lab.source, OURS) as name,
        running(lab, name="sealed", memory_mib=128, vtpm_secret=name) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def frozen(
    guest: Guest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Frozen, dict[tuple[str, str], pathlib.Path]]:
    """One freeze for all stories of this file."""
    freeze = Freeze.begin(guest, "freeze")
    found = freeze.freeze()
    files = freeze.read_all(tmp_path_factory.mktemp("frozen"))
    freeze.await_taken()
    freeze.release()
    return found, files


def state_of(frozen: tuple[Frozen, object]) -> VtpmBlobs:
    assert frozen[0].vtpm is not None
    return frozen[0].vtpm


def on_disk_or_in_arguments(passphrase: Passphrase, directory: pathlib.Path) -> list[str]:
    """Where a passphrase, or a part of a TPM's plain state, can be read."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file() and passphrase.value in path.read_bytes():
            found.append(str(path))
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if passphrase.value in (path / name).read_bytes():
                    found.append(str(path / name))
    return found


def test_a_frozen_vtpm_vouches_by_the_passphrase_that_libvirt_gives(
    guest: Guest, frozen: tuple[Frozen, object], factory: SwtpmFactory
) -> None:
    name = definition.vtpm_secret(definition.parse(guest.domain_xml()))
    assert name is not None
    passphrase = LibvirtPassphrases(guest.host.uri)(guest.uuid, name)
    assert passphrase == OURS
    shadow = factory.shadow(state_of(frozen), passphrase)
    assert on_disk_or_in_arguments(OURS, guest.host.run_dir) == []
    pcrs = shadow.tpm.read_pcrs([0, 7])
    assert set(pcrs) == {0, 7}
    assert shadow.tpm.quote(os.urandom(32), [0, 7]).signature
    shadow.discard()


def test_without_the_passphrase_nobody_reads_it(
    frozen: tuple[Frozen, object], factory: SwtpmFactory
) -> None:
    with pytest.raises(VtpmStateError, match="expected it not encrypted"):
        factory.shadow(state_of(frozen))
    with pytest.raises(VtpmError, match="refused SET_STATE"):
        factory.shadow(state_of(frozen), THEIRS)
    with pytest.raises(VtpmStateError):
        factory.derive("clone", state_of(frozen), THEIRS)


def test_a_passphrase_that_libvirt_keeps_to_itself_or_does_not_have(lab: Lab) -> None:
    read = LibvirtPassphrases(lab.source.uri)
    with (
        secret(lab.source, OURS, private=True) as name,
        pytest.raises(PassphraseUnavailable, match="private") as refused,
    ):
        read("server", name)
    assert OURS.value.decode() not in str(refused.value)
    with pytest.raises(PassphraseUnavailable, match=r"server 1: .* cannot be read"):
        read("server 1", str(uuid.uuid4()))


def test_a_new_one_is_handed_over_encrypted_and_is_the_same(factory: SwtpmFactory) -> None:
    made = factory.new("clone", LOG, THEIRS)
    ak, pcrs = made.tpm.ak_public(), made.tpm.read_pcrs(range(1, 8))
    given = made.hand_over()
    state_blobs.require_blobs(given, encrypted=True)
    again = factory.shadow(given, THEIRS)
    assert again.tpm.ak_public() == ak
    assert again.tpm.read_pcrs(range(1, 8)) == pcrs
    assert again.ek_chain[0] == made.ek_chain[0]


def test_a_derived_one_goes_from_one_passphrase_to_another(
    frozen: tuple[Frozen, object], factory: SwtpmFactory
) -> None:
    plain = factory.decrypt(state_of(frozen), OURS)
    state_blobs.require_blobs(plain)
    derived = factory.derive("clone", plain, THEIRS)
    pcrs = derived.tpm.read_pcrs(range(8))
    source = factory.shadow(state_of(frozen), OURS)
    assert pcrs == source.tpm.read_pcrs(range(8))
    assert derived.tpm.ak_public() != source.tpm.ak_public()
    given = derived.hand_over()
    state_blobs.require_blobs(given, encrypted=True)
    assert factory.shadow(given, THEIRS).tpm.read_pcrs(range(8)) == pcrs


def test_the_clone_runs_on_with_a_vtpm_under_its_own_secret(
    lab: Lab,
    guest: Guest,
    frozen: tuple[Frozen, dict[tuple[str, str], pathlib.Path]],
    factory: SwtpmFactory,
) -> None:
    host = lab.destination
    with secret(host, THEIRS) as name:
        clone = sealed_clone(host, name)
        vtpm = factory.new(clone.uuid, LOG, THEIRS)
        plan = plan_of(*frozen, host, clone, vtpm.hand_over())
        destination = QemuDestination(host.uri, host.memory_backing_dir)
        try:
            destination.restore(plan)
            console = Console(plan.directory / "console0.log")
            line = console.wait_for("TPM")
            assert line["rc"] == "0"
            assert line["ek_rsa"] != guest.console.last("TPM")["ek_rsa"]  # type: ignore[index]
            with connection.connected(host.uri) as libvirtd:
                text = connection.find(libvirtd, clone.uuid).XMLDesc(0)
            assert definition.vtpm_secret(definition.parse(text)) == name
            kept = host.base / "var" / "swtpm" / clone.uuid / "tpm2" / "tpm2-00.permall"
            flags = int.from_bytes(kept.read_bytes()[4:6])
            assert flags & 1, "the state on the clone's host is not encrypted"
            for passphrase in (OURS, THEIRS):
                assert on_disk_or_in_arguments(passphrase, host.base) == []
        finally:
            destination.destroy(clone.uuid, plan.directory)
    shutil.rmtree(plan.directory)


def sealed_clone(host: Host, secret_uuid: str) -> Identity:
    plain = someone_else("sealed-clone", 9)
    directory = host.state_path / plain.name
    side = HostSide(disks={"vda": str(directory / "disk")}, vtpm_secret=secret_uuid)
    return Identity(plain.name, plain.uuid, plain.nics, side)


def test_libvirt_refuses_a_state_of_another_passphrase(
    lab: Lab, frozen: tuple[Frozen, dict[tuple[str, str], pathlib.Path]], factory: SwtpmFactory
) -> None:
    """What was spliced in is what this host's libvirt can open, or the clone does not start."""
    host = lab.destination
    with secret(host, OURS) as other:
        clone = sealed_clone(host, other)
        plan = plan_of(*frozen, host, clone, factory.new("x", LOG, THEIRS).hand_over())
        destination = QemuDestination(host.uri, host.memory_backing_dir)
        with pytest.raises(RestoreFailed):
            destination.restore(plan)
        with connection.connected(host.uri) as libvirtd, pytest.raises(libvirt.libvirtError):
            libvirtd.lookupByUUIDString(clone.uuid)
    shutil.rmtree(plan.directory)
