"""Freeze and restore on Xen, with a libvirt and a libxl that are functions: what is done when, and what a failure leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import struct
from typing import Any

import libvirt
import pytest

from nova_trusted_clone.hypervisor.base import (
    FreezeBusy,
    FreezeFailed,
    Obstacles,
    RestoreFailed,
)
from nova_trusted_clone.hypervisor.qemu import connection, diskfreeze
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.hypervisor.xen import (
    destination,
    inspect,
    journal,
    monitor,
    proof,
    saveimage,
    saver,
    saving,
    source,
    stream,
)
from nova_trusted_clone.hypervisor.xen.capture import Capture
from nova_trusted_clone.hypervisor.xen.records import PAGE, Libxc
from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms
from nova_trusted_clone.ports import Identity, NicIdentity, RestorePlan, VtpmBlobs
from tests.unit.hypervisor import test_xen_identity as definitions
from tests.unit.hypervisor import test_xen_stream as streams

UUID = "11111111-2222-3333-4444-555555555555"
VTPM = VtpmBlobs(b"permanent", b"volatile")


class Domain:
    """One server; it counts its processor's time whenever it is asked."""

    def __init__(self, uuid: str = UUID, text: str = definitions.SOURCE) -> None:
        self.uuid, self.text = uuid, text
        self.running = True
        self.used = 0

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return self.uuid

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        return 7

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - libvirt's name
        return self.text

    def name(self) -> str:
        return "web-1"

    def state(self) -> tuple[int, int]:
        return (libvirt.VIR_DOMAIN_RUNNING if self.running else libvirt.VIR_DOMAIN_SHUTOFF, 0)

    def info(self) -> tuple[int, int, int, int, int]:
        self.used += 1
        return (self.state()[0], 0, 0, 1, self.used)

    def maxMemory(self) -> int:  # noqa: N802 - libvirt's name
        return streams.MEMORY_PAGES * PAGE >> 10

    def isActive(self) -> bool:  # noqa: N802 - libvirt's name
        return self.running

    def isPersistent(self) -> bool:  # noqa: N802 - libvirt's name
        return False

    def resume(self) -> None:
        self.running = True

    def destroy(self) -> None:
        self.running = False


def connected(monkeypatch: pytest.MonkeyPatch, state: str = "4") -> None:
    """What the guest's drivers say of each of its devices; 4: connected."""
    monkeypatch.setattr(
        proof, "_xenstore", lambda operation, _p: "0" if operation == "list" else state
    )


class Host:
    """What happened, in order; and what a test wants to go wrong."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.domain: Domain | None = Domain()
        self.fails_at = ""
        self.events = {
            "ready": {"live": True},
            "suspended": {},
            "resumed": {"pause_s": 0.25, "copy_s": 3.0, "final_s": 0.2, "resume_s": 0.05},
            "saved": {"ranges": [["0x0", 0, 700], ["0xfeff8", 0xFEFF8, 8]]},
        }

    def step(self, name: str) -> None:
        self.log.append(name)
        if name == self.fails_at:
            # Once: what takes it back works.
            self.fails_at = ""
            raise FreezeFailed(f"{name} went wrong")


class FakeSaver:
    """``saving.Saver``."""

    host: Host

    def __init__(self, *arguments: str, log: pathlib.Path) -> None:
        self.host.step(f"saver {arguments[0]}")
        self._directory = pathlib.Path(arguments[2]) if arguments[0] == "save" else None
        self.identity = ProcessId(2**22 + 1, 1)

    def __enter__(self) -> FakeSaver:
        return self

    def __exit__(self, *_: object) -> None:
        self.host.log.append("saver ends")

    def say(self, word: str) -> None:
        self.host.step(word)

    def await_event(self, event: str, _limit_s: float) -> dict[str, Any]:
        self.host.step(event)
        if event == "saved" and self._directory is not None:
            (self._directory / saver.DEVICE_STATE).write_bytes(streams.pvh().encode())
        return self.host.events.get(event, {})


class Qemu:
    """The monitor, for ``disks.plan`` and of a device model that libxl has stopped; other steps are noted by name."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def execute(self, command: str, **_arguments: Any) -> Any:
        if command == "query-status":
            return {"running": False}
        if command == "cont":
            self._log.append("device model goes on")
        image = {"virtual-size": 1 << 20, "filename": "/theirs/web-1.img"}
        return [{"inserted": {"node-name": "xvda", "file": "/theirs/web-1.img", "image": image}}]


@pytest.fixture
def host(monkeypatch, tmp_path) -> Host:
    made = Host()
    monkeypatch.setattr(FakeSaver, "host", made, raising=False)
    monkeypatch.setattr(saving, "Saver", FakeSaver)
    monkeypatch.setattr(source, "Saver", FakeSaver)
    monkeypatch.setattr(source, "LOCKS", tmp_path)
    monkeypatch.setattr(inspect, "virtual_size", lambda _disk: 1 << 20)
    connected(monkeypatch)

    @contextlib.contextmanager
    def libvirtd(*_arguments: Any):
        yield None

    monkeypatch.setattr(connection, "connected", libvirtd)
    monkeypatch.setattr(connection, "find", lambda _c, _uuid: made.domain)
    monkeypatch.setattr(connection, "find_or_none", lambda _c, _uuid: made.domain)

    @contextlib.contextmanager
    def qemu(_number: int):
        yield Qemu(made.log)

    monkeypatch.setattr(monitor, "connected", qemu)
    for name in ("require_idle", "prepare", "hold", "export", "undo", "forget_fdsets"):
        monkeypatch.setattr(
            diskfreeze, name, lambda *_a, _name=name, **_k: made.step(f"disks {_name}")
        )
    return made


@pytest.fixture
def vtpms(tmp_path) -> HostVtpms:
    return HostVtpms(tmp_path / "vtpms")


@pytest.fixture
def directory(tmp_path) -> pathlib.Path:
    made = tmp_path / "freeze"
    made.mkdir()
    return made


def frozen(vtpms: HostVtpms, directory: pathlib.Path):
    return source.XenSource("xen:///system", vtpms).freeze(UUID, directory, directory / "unused")


def test_the_disks_are_held_while_the_domain_stands_still(host, vtpms, directory):
    found = frozen(vtpms, directory)
    pause = host.log[host.log.index("suspended") : host.log.index("resumed") + 1]
    assert pause == ["suspended", "disks hold", "resume", "resumed"]
    assert host.log.index("disks prepare") < host.log.index("saver save")
    assert found.pause_s == 0.25


def test_a_device_model_has_its_disks_again_before_they_are_held(host, vtpms, directory):
    assert host.domain is not None
    host.domain.text = definitions.HVM
    frozen(vtpms, directory)
    pause = host.log[host.log.index("suspended") : host.log.index("resumed") + 1]
    assert pause == ["suspended", "device model goes on", "disks hold", "resume", "resumed"]


def test_a_freeze_names_all_that_there_is(host, vtpms, directory):
    vtpms.keep(UUID, VTPM)
    found = frozen(vtpms, directory)
    assert [(r.kind, r.name) for r in found.regions] == [
        ("ram", "0x0"),
        ("ram", "0xfeff8"),
        ("disk", "xvda"),
        ("device", "device"),
        ("domain", "domain"),
    ]
    assert found.regions[1].source["offset"] == 0xFEFF8 * PAGE
    assert found.vtpm == VTPM


def test_a_release_takes_the_disks_off_and_the_files_away(host, vtpms, directory):
    frozen(vtpms, directory)
    source.XenSource("xen:///system", vtpms).release(UUID, directory)
    assert host.log[-2:] == ["disks undo", "disks forget_fdsets"]
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("step", ["saver save", "save", "suspended", "disks hold", "resumed"])
def test_whatever_fails_the_domain_is_resumed_and_nothing_is_left(host, vtpms, directory, step):
    host.fails_at = step
    with pytest.raises(FreezeFailed, match="went wrong"):
        frozen(vtpms, directory)
    assert "disks undo" in host.log
    if step != "saver save":
        assert "saver resume" in host.log
    assert list(directory.iterdir()) == []


def test_a_domain_that_was_resumed_is_not_resumed_again(host, vtpms, directory):
    host.fails_at = "saved"
    with pytest.raises(FreezeFailed):
        frozen(vtpms, directory)
    assert "saver resume" not in host.log


def test_a_server_that_was_started_anew_is_left_alone(host, vtpms, directory):
    frozen(vtpms, directory)
    host.domain.ID = lambda: 8
    host.log.clear()
    source.XenSource("xen:///system", vtpms).release(UUID, directory)
    assert host.log == []
    assert journal.read(directory) is None


def test_two_freezes_of_one_server(host, vtpms, directory):
    with source._alone_with(UUID), pytest.raises(FreezeBusy):
        frozen(vtpms, directory)
    assert host.log == []


def test_what_stands_in_the_way_is_told_before_anything_is_changed(host, vtpms, directory):
    host.domain = Domain(text=definitions.SOURCE.replace("type='file'", "type='block'", 1))
    with pytest.raises(Obstacles, match="a block volume"):
        frozen(vtpms, directory)
    assert host.log == []


# -- the other host --


class Libvirt:
    """Reads what it is to restore as libxl does; ``limit`` bytes of it, where something goes wrong."""

    def __init__(self, host: Host, directory: pathlib.Path, limit: int = -1) -> None:
        self.host, self.limit = host, limit
        self.capture = Capture(directory / "restored")
        self.definition = ""

    def listAllDomains(self) -> list[Any]:  # noqa: N802 - libvirt's name
        return []

    def restoreFlags(self, path: str, _text: None, _flags: int) -> None:  # noqa: N802 - libvirt's name
        with open(path, "rb", buffering=0) as file:
            if self.limit >= 0:
                file.read(self.limit)
                raise libvirt.libvirtError("the domain could not be built")
            header = file.read(64)
            assert header[:16] == saveimage.LIBVIRT_MAGIC
            length = int.from_bytes(header[20:24], "little")
            self.definition = file.read(length)[:-1].decode()
            stream.read(file, self.capture)
        self.host.domain = Domain(definitions.UUID, self.definition)


class Xen:
    """``_xl`` on the other host, with what its processors offer."""

    def __init__(self, features: int) -> None:
        self.features = features

    def host_policy(self, hvm: bool) -> bytes:
        # A PVH guest is one of these without a device model.
        assert hvm
        return features(self.features)


def features(bits: int) -> bytes:
    """A CPU policy with one leaf, of features of which the guest has 0xF."""
    return struct.pack("<6I", 7, 0, 0, bits, 0, 0)


@pytest.fixture
def plan(tmp_path) -> RestorePlan:
    told = ((Libxc.X86_CPUID_POLICY, features(0xF)), (Libxc.STATIC_DATA_END, b""))
    state = dataclasses.replace(streams.pvh(), head=told)
    (tmp_path / "device").write_bytes(state.encode())
    small = {}
    for one in state.ranges:
        small[one.name] = tmp_path / f"ram-{one.name}"
        small[one.name].write_bytes(b"".join(streams.page(one.first + n) for n in range(one.count)))
    (tmp_path / "clone").mkdir()
    return RestorePlan(
        identity=Identity("web-1-clone-1", definitions.UUID, (NicIdentity("52:54:00:bb:bb:bb"),)),
        directory=tmp_path / "clone",
        definition=definitions.SOURCE,
        device_state=tmp_path / "device",
        memory={},
        small_blocks=small,
        ram_block_order=tuple((one.name, one.count * PAGE) for one in state.ranges),
        backings={"xvda": tmp_path / "store-xvda"},
        vtpm=VTPM,
    )


def test_a_guest_that_does_not_use_xens_own_devices_is_not_frozen(
    host, vtpms, directory, monkeypatch
):
    connected(monkeypatch, "1")
    with pytest.raises(Obstacles, match="not connected by its Xen drivers"):
        frozen(vtpms, directory)
    assert host.log == []


@pytest.fixture
def restoring(host, monkeypatch, tmp_path, vtpms):
    def use(limit: int = -1) -> tuple[destination.XenDestination, Libvirt]:
        made = Libvirt(host, tmp_path, limit)
        host.domain = None

        @contextlib.contextmanager
        def connected(*_arguments: Any):
            yield made

        monkeypatch.setattr(connection, "connected", connected)
        monkeypatch.setattr(
            destination.images, "create_overlay", lambda path, _backing: path.write_text("layer")
        )
        monkeypatch.setattr(saver, "library", lambda: Xen(0xFF))
        connected(monkeypatch)
        return destination.XenDestination("xen:///system", vtpms), made

    return use


def test_what_is_restored_is_what_was_verified(host, restoring, plan, vtpms, tmp_path):
    adapter, libxl = restoring()
    adapter.restore(plan)
    assert libxl.capture.state(0).runs == streams.pvh().runs
    assert (tmp_path / "restored").read_bytes()[5 * PAGE : 6 * PAGE] == streams.page(5)
    assert "web-1-clone-1" in libxl.definition
    assert vtpms.read(definitions.UUID) == VTPM
    assert adapter.exists(definitions.UUID, plan.directory)


def test_a_restore_that_fails_leaves_nothing_and_nobody_waiting(host, restoring, plan, vtpms):
    adapter, _ = restoring(limit=100)
    with pytest.raises(RestoreFailed, match="could not be built"):
        adapter.restore(plan)
    assert list(plan.directory.iterdir()) == []
    assert not vtpms.has(definitions.UUID)


def test_processors_that_lack_something_are_told_before_anything_is_made(
    restoring, plan, monkeypatch
):
    adapter, _ = restoring()
    monkeypatch.setattr(saver, "library", lambda: Xen(0x7))
    with pytest.raises(RestoreFailed, match=r"leaf 0x7\.0 ebx: 0x8"):
        adapter.restore(plan)
    assert list(plan.directory.iterdir()) == []


def test_a_host_whose_xen_cannot_be_asked_restores_nothing(restoring, plan, monkeypatch):
    """The clone might die of an instruction that is not there."""
    adapter, _ = restoring()

    def missing() -> None:
        raise saver.SaveFailed("install libxen-dev")

    monkeypatch.setattr(saver, "library", missing)
    with pytest.raises(RestoreFailed, match="install libxen-dev"):
        adapter.restore(plan)
    assert list(plan.directory.iterdir()) == []


def test_what_a_device_model_opens_again_must_be_there(host, restoring, plan):
    adapter, _ = restoring()
    there = definitions.HVM.replace("/srv/vmlinuz", "/not/there/vmlinuz")
    with pytest.raises(RestoreFailed, match=r"/not/there/vmlinuz, from which .* not on this host"):
        adapter.restore(dataclasses.replace(plan, definition=there))
    assert list(plan.directory.iterdir()) == []


def test_a_guest_that_does_not_come_up_is_no_clone(host, restoring, plan, monkeypatch):
    adapter, _ = restoring()
    monkeypatch.setattr(proof, "LIMIT_S", 0.3)
    connected(monkeypatch, "3")
    with pytest.raises(RestoreFailed, match="devices are not connected"):
        adapter.restore(plan)
    assert host.domain is not None and not host.domain.running


def test_memory_that_is_not_the_states_is_refused(restoring, plan):
    adapter, _ = restoring()
    other = dataclasses.replace(plan, ram_block_order=(("0x0", 700 * PAGE),))
    with pytest.raises(RestoreFailed, match="the regions are"):
        adapter.restore(other)


def test_the_end_of_a_clone_is_the_end_of_its_vtpm(host, restoring, plan, vtpms):
    adapter, _ = restoring()
    adapter.restore(plan)
    adapter.destroy(definitions.UUID, plan.directory)
    assert not vtpms.has(definitions.UUID)
    assert list(plan.directory.iterdir()) == []
