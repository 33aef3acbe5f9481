"""Before the pause a server's disks are written out, as far as that can be done from outside."""

from __future__ import annotations

import os
import pathlib
from typing import Any, cast

import pytest

from nova_trusted_clone.hypervisor.qemu import diskfreeze
from nova_trusted_clone.hypervisor.qemu.journal import FrozenDisk
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor


class Qemu:
    """Takes lines of the human monitor and gives the answer that it was made with."""

    def __init__(self, answer: str = "") -> None:
        self.lines: list[str] = []
        self._answer = answer

    def human(self, line: str) -> str:
        self.lines.append(line)
        return self._answer


def flush(qemu: Qemu, *disks: FrozenDisk) -> None:
    diskfreeze.flush(cast("Monitor", qemu), disks)


def disk(image: pathlib.Path, **more: Any) -> FrozenDisk:
    return FrozenDisk("vda", "node-1", 1 << 20, "/scratch", 1, image=str(image), **more)


def test_the_kernel_writes_its_part_before_qemu_is_asked_for_its_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, qemu = tmp_path / "disk", Qemu()
    image.write_bytes(b"content")
    written: list[tuple[int, int]] = []
    monkeypatch.setattr(
        diskfreeze.os,
        "fdatasync",
        lambda fd: written.append((os.fstat(fd).st_ino, len(qemu.lines))),
    )
    flush(qemu, disk(image))
    assert written == [(image.stat().st_ino, 0)]
    assert qemu.lines == ['qemu-io node-1 "flush"']


def test_what_nobody_writes_to_is_left_alone(tmp_path: pathlib.Path) -> None:
    qemu = Qemu()
    flush(qemu, disk(tmp_path / "none", read_only=True))
    assert qemu.lines == []


def test_an_image_that_cannot_be_opened_is_left_to_qemu(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    qemu = Qemu()
    flush(qemu, disk(tmp_path / "gone"))
    assert "is written out by QEMU" in caplog.text
    assert len(qemu.lines) == 1


def test_a_pipe_in_an_images_place_keeps_nobody_waiting(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    qemu = Qemu()
    flush(qemu, disk(tmp_path / "pipe"))
    assert len(qemu.lines) == 1


def test_what_qemu_says_against_it_is_in_the_log(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    flush(Qemu("Cannot find device\r\n"), disk(tmp_path / "gone"))
    assert "is flushed in the pause: Cannot find device" in caplog.text
