"""The monitor of the QEMU that serves a Xen domain's disks: a server on a socket answers as it does."""

from __future__ import annotations

import array
import contextlib
import json
import os
import pathlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nova_trusted_clone.hypervisor.base import FreezeFailed, HypervisorError, MonitorError
from nova_trusted_clone.hypervisor.qemu.definition import Disk
from nova_trusted_clone.hypervisor.xen import disks, monitor

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'
Answer = Callable[[str, dict[str, Any]], Any]


class Qemu:
    """Answers by a function; an event comes before each answer."""

    def __init__(self, path: pathlib.Path, answer: Answer) -> None:
        self.asked: list[str] = []
        self.files: list[bytes] = []
        self._answer = answer
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(1)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            connection.sendall(GREETING)
            while True:
                raw, ancillary, *_ = connection.recvmsg(1 << 16, 1024)
                if not raw:
                    return
                self._note(ancillary)
                request = json.loads(raw)
                self.asked.append(request["execute"])
                connection.sendall(b'{"event": "BLOCK_JOB_COMPLETED", "data": {}}\n')
                reply = (
                    {"return": {}}
                    if request["execute"] == "qmp_capabilities"
                    else self._answer(request["execute"], request["arguments"])
                )
                connection.sendall(json.dumps(reply).encode() + b"\n")

    def _note(self, ancillary: list[Any]) -> None:
        for _level, _kind, data in ancillary:
            found = array.array("i")
            found.frombytes(data)
            for descriptor in found:
                self.files.append(os.read(descriptor, 100))
                os.close(descriptor)


@contextlib.contextmanager
def served(tmp_path, monkeypatch, answer: Answer) -> Iterator[tuple[Qemu, monitor.XenMonitor]]:
    monkeypatch.setattr(monitor, "SOCKET", str(tmp_path / "qmp-{domain}"))
    qemu = Qemu(tmp_path / "qmp-7", answer)
    with monitor.connected(7) as connected:
        yield qemu, connected


def test_commands_are_answered_and_events_are_passed_over(tmp_path, monkeypatch):
    with served(tmp_path, monkeypatch, lambda *_: {"return": [1]}) as (qemu, connected):
        assert connected.execute("query-jobs") == [1]
        assert qemu.asked == ["qmp_capabilities", "query-jobs"]


def test_files_are_handed_over(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("content")
    with served(tmp_path, monkeypatch, lambda *_: {"return": {}}) as (qemu, connected):
        with (tmp_path / "file").open() as file:
            connected.execute_with_file(file.fileno(), "add-fd", fdset_id=1)
        assert qemu.files == [b"content"]


def test_what_qemu_refuses_is_its_own_words(tmp_path, monkeypatch):
    refusal = {"error": {"class": "GenericError", "desc": "Device is in use"}}
    with (
        served(tmp_path, monkeypatch, lambda *_: refusal) as (_, connected),
        pytest.raises(MonitorError, match="Device is in use"),
    ):
        connected.execute("blockdev-del", node_name="x")


def test_a_domain_without_qemu(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "SOCKET", str(tmp_path / "qmp-{domain}"))
    with pytest.raises(MonitorError, match="qmp-9"), monitor.connected(9):
        pass


def block(path: str, backing: bool = False) -> dict[str, Any]:
    image: dict[str, Any] = {"virtual-size": 1 << 20, "filename": path}
    if backing:
        image["backing-image"] = {}
    return {"inserted": {"node-name": f"node-{path}", "file": path, "image": image}}


def disk(path: str) -> Disk:
    return Disk("xvda", "disk", "file", "qcow2", path, "", shareable=False, transient=False)


def test_disks_are_found_by_their_files(tmp_path, monkeypatch):
    with served(tmp_path, monkeypatch, lambda *_: {"return": [block("/a")]}) as (_, connected):
        (found,) = disks.plan(connected, [disk("/a")], tmp_path)
    assert (found.node, found.size_bytes) == ("node-/a", 1 << 20)


def test_a_disk_that_qemu_does_not_serve(tmp_path, monkeypatch):
    with (
        served(tmp_path, monkeypatch, lambda *_: {"return": [block("/b")]}) as (_, connected),
        pytest.raises(FreezeFailed, match="QEMU serves /b, not /a"),
    ):
        disks.plan(connected, [disk("/a")], tmp_path)


class Pulling:
    """A QEMU with one image over the store's; a job takes three looks to end."""

    def __init__(self, works: bool = True) -> None:
        self.looks = 3
        self.pulled = False
        self.works = works

    def __call__(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == "query-block":
            return {"return": [block("/own", backing=not self.pulled)]}
        if command == "query-jobs":
            self.looks -= 1
            self.pulled = self.works and self.looks == 0
            return {"return": [{"id": "ntc-pull-0"}] if self.looks else []}
        assert (command, arguments["device"]) == ("block-stream", "node-/own")
        return {"return": {}}


def test_disks_are_pulled_until_they_need_the_store_no_longer(tmp_path, monkeypatch):
    with served(tmp_path, monkeypatch, Pulling()) as (_, connected):
        disks.pull(connected, [pathlib.Path("/own")])


def test_a_disk_that_was_not_pulled_is_told(tmp_path, monkeypatch):
    with (
        served(tmp_path, monkeypatch, Pulling(works=False)) as (_, connected),
        pytest.raises(HypervisorError, match="still needs the store"),
    ):
        disks.pull(connected, [pathlib.Path("/own")])
