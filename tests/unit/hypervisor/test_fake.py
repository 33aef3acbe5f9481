"""A whole freeze and restore in files."""

from __future__ import annotations

import pathlib

import pytest

from nova_trusted_clone.hypervisor.base import FreezeBusy, RestoreFailed, ServerNotFound
from nova_trusted_clone.hypervisor.fake import FakeHypervisor
from nova_trusted_clone.ports import Frozen, Identity, NicIdentity, RestorePlan, VtpmBlobs

SOURCE = Identity("web-1", "aaaa", (NicIdentity("52:54:00:00:00:01"),))
CLONE = Identity("web-2", "bbbb", (NicIdentity("52:54:00:00:00:02"),))


def boot(tmp_path: pathlib.Path) -> FakeHypervisor:
    made = FakeHypervisor(tmp_path / "host")
    memory = {"pc.ram": b"m" * 8192, "vga.vram": b"v" * 4096}
    made.boot(SOURCE, memory, {"vda": b"d" * 4096}, vtpm=VtpmBlobs(b"p", b"v"))
    return made


def plan(frozen: Frozen, directory: pathlib.Path) -> RestorePlan:
    paths = {(r.kind, r.name): pathlib.Path(str(r.source["path"])) for r in frozen.regions}
    return RestorePlan(
        identity=CLONE,
        directory=directory,
        definition=paths["domain", "domain"].read_text(),
        device_state=paths["device", "device"],
        memory={"pc.ram": paths["ram", "pc.ram"]},
        small_blocks={"vga.vram": paths["ram", "vga.vram"]},
        ram_block_order=tuple((r.name, r.size_bytes) for r in frozen.regions if r.kind == "ram"),
        backings={"vda": paths["disk", "vda"]},
        vtpm=VtpmBlobs(b"other", b"one"),
    )


def test_a_clone_is_what_the_source_was_at_the_freeze(tmp_path: pathlib.Path) -> None:
    host = boot(tmp_path)
    before = host.server("aaaa").digest()
    frozen = host.freeze("aaaa", tmp_path, tmp_path / "capture")
    (host.server("aaaa").directory / "disk" / "vda").write_bytes(b"later")
    host.restore(plan(frozen, tmp_path))
    assert host.server("bbbb").digest() == before
    assert host.server("bbbb").facts["macs"] == ["52:54:00:00:00:02"]
    assert frozen.vtpm == VtpmBlobs(b"p", b"v")
    host.destroy("bbbb", tmp_path)
    host.destroy("bbbb", tmp_path)
    with pytest.raises(ServerNotFound):
        host.server("bbbb")


def test_one_freeze_at_a_time_and_release_is_repeatable(tmp_path: pathlib.Path) -> None:
    host = boot(tmp_path)
    host.freeze("aaaa", tmp_path, tmp_path / "capture")
    with pytest.raises(FreezeBusy):
        host.freeze("aaaa", tmp_path, tmp_path / "capture")
    host.release("aaaa", tmp_path)
    host.release("aaaa", tmp_path)
    host.freeze("aaaa", tmp_path, tmp_path / "capture")


def test_a_restore_that_fails_leaves_nothing(tmp_path: pathlib.Path) -> None:
    host = boot(tmp_path)
    frozen = host.freeze("aaaa", tmp_path, tmp_path / "capture")
    broken = plan(frozen, tmp_path)
    broken.backings["vda"].unlink()
    with pytest.raises(RestoreFailed):
        host.restore(broken)
    with pytest.raises(ServerNotFound):
        host.server("bbbb")
