"""What the exporter is handed is checked before it is used, and nothing that came stays open when it is refused."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import struct
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import handover
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock

BLOCK = {"name": "pc.ram", "size_bytes": 8192, "maximum_bytes": 8192, "address": 4096}
GOOD: dict[str, Any] = {"process": {"pid": 7, "start_time": 9}, "blocks": [BLOCK]}


def said(raw: bytes, descriptors: int = 3, length: int | None = None) -> handover.Handed:
    """What is made of a message with so many descriptors; at the end none of them is open here."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as nothing:
        head = struct.pack(">I", len(raw) if length is None else length)
        socket.send_fds(ours, [head], [nothing.fileno()] * descriptors)
        ours.sendall(raw)
        ours.shutdown(socket.SHUT_WR)
        before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
        try:
            found = handover.take(theirs)
        except HypervisorError:
            assert len(list(pathlib.Path("/proc/self/fd").iterdir())) == before
            raise
    for descriptor in found.descriptors:
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
    return found


def test_what_is_given_is_taken(tmp_path: pathlib.Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "sock"))
    listening.listen()
    taken: list[handover.Handed] = []

    def exporter() -> None:
        connection, _ = listening.accept()
        with connection:
            taken.append(handover.take(connection))
            handover.say_ready(connection)
            assert handover.await_word(connection, handover.PROTECT, 10)
            handover.say_protected(connection)
            assert handover.await_word(connection, handover.FROZEN, 10)

    other = threading.Thread(target=exporter)
    other.start()
    blocks = [RamBlock("pc.ram", 4096, 8192, 1 << 40), RamBlock("vga.vram", 4096, 4096, 1 << 41)]
    with open(os.devnull, "rb") as nothing, handover.Handing(tmp_path / "sock") as handing:
        handing.give(ProcessId(1, 2), blocks, [nothing.fileno()] * 3)
        handing.protect()
        handing.say_frozen()
    other.join()
    listening.close()
    assert (taken[0].process, list(taken[0].blocks)) == (ProcessId(1, 2), blocks)
    for descriptor in taken[0].descriptors:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"blocks": []}, "no blocks"),
        ({"blocks": [BLOCK, BLOCK]}, "two of one name"),
        ({"blocks": [{**BLOCK, "address": 5}]}, "whole pages"),
        ({"blocks": [{**BLOCK, "address": None}]}, "whole pages"),
        ({"blocks": [{**BLOCK, "size_bytes": True}]}, "whole pages"),
        ({"blocks": [{**BLOCK, "size_bytes": 1 << 20}]}, "its size or address"),
        ({"blocks": [{**BLOCK, "address": (1 << 64) - 4096}]}, "its size or address"),
        ({"blocks": [{**BLOCK, "name": "a" * 257}]}, "a block's name"),
        ({"blocks": [{"name": "pc.ram"}]}, "size_bytes"),
        ({"blocks": None}, "hand-over"),
        ({"process": {"pid": "x", "start_time": 1}}, "invalid literal"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(HypervisorError, match=reason):
        said(json.dumps({**GOOD, **changes}).encode())


def test_lengths_and_descriptors_are_checked_first() -> None:
    assert said(json.dumps(GOOD).encode()).process == ProcessId(7, 9)
    for count in (0, 1, 2):
        with pytest.raises(HypervisorError, match="3"):
            said(json.dumps(GOOD).encode(), descriptors=count)
    with pytest.raises(HypervisorError, match="bytes, allowed are"):
        said(b"", length=1 << 30)
    with pytest.raises(HypervisorError, match="closed in mid message"):
        said(b"{}", length=100)


@given(st.binary(max_size=400))
def test_any_bytes_are_taken_or_refused_by_name(raw: bytes) -> None:
    with pytest.raises(HypervisorError, match="hand-over"):
        said(raw)
