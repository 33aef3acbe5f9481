"""Device state, composed streams and save images."""

from __future__ import annotations

import pathlib
import struct

import pytest

from nova_trusted_clone.hypervisor.base import MalformedState
from nova_trusted_clone.hypervisor.qemu import compose, devicestate, saveimage
from nova_trusted_clone.ports import VtpmBlobs

from .streamparser import PAGE, Collector, StreamParser

BLOBS = VtpmBlobs(b"permanent" * 100, b"volatile" * 50, b"")


def section(name: bytes, number: int, body: bytes) -> bytes:
    head = struct.pack(">BI", 4, number) + bytes([len(name)]) + name + struct.pack(">II", 0, 1)
    return head + body + struct.pack(">BI", 0x7E, number)


def vtpm_section(blobs: VtpmBlobs) -> bytes:
    parts = (blobs.permanent, blobs.volatile, blobs.savestate)
    return section(b"tpm-emulator", 7, b"".join(struct.pack(">II", 0, len(p)) + p for p in parts))


def state(*sections: bytes) -> bytes:
    return devicestate.HEADER + section(b"cpu", 1, b"registers") + b"".join(sections) + b"\0"


def test_the_vtpms_state_is_taken_out_and_another_put_in() -> None:
    stripped, blobs = devicestate.take_vtpm(state(vtpm_section(BLOBS)))
    assert blobs == BLOBS
    assert stripped == state(vtpm_section(VtpmBlobs(b"", b"")))
    other = VtpmBlobs(b"new", b"newer")
    assert devicestate.give_vtpm(stripped, other) == state(vtpm_section(other))


def test_a_server_without_a_vtpm_stays_as_it_is() -> None:
    assert devicestate.take_vtpm(state()) == (state(), None)
    assert devicestate.give_vtpm(state(), None) == state()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"QEVM", "no QEMU stream"),
        (state()[:-1], "cut"),
        (state(vtpm_section(BLOBS), vtpm_section(BLOBS)), "2 vTPMs"),
        (state(section(b"tpm-emulator", 7, struct.pack(">II", 0, 1 << 30))), "permanent"),
        (state(section(b"tpm-emulator", 7, bytes(32))), "does not end"),
    ],
)
def test_a_malformed_state_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedState, match=reason):
        devicestate.take_vtpm(raw)


def test_a_vtpm_is_never_put_where_one_is_or_where_none_was() -> None:
    with pytest.raises(MalformedState, match="holds a state already"):
        devicestate.give_vtpm(state(vtpm_section(BLOBS)), BLOBS)
    with pytest.raises(MalformedState, match="no vTPM"):
        devicestate.give_vtpm(state(), BLOBS)


def test_a_composed_stream_brings_small_blocks_and_the_device_state(tmp_path: pathlib.Path) -> None:
    video = tmp_path / "vga"
    video.write_bytes(bytes(PAGE) + b"v" * PAGE + bytes(6 * PAGE))
    blocks = (("pc.ram", 64 * PAGE), ("vga.vram", 8 * PAGE))
    raw = b"".join(compose.incoming_stream("pc-q35-7.2", blocks, {"vga.vram": video}, state()))
    found = Collector()
    assert StreamParser(found).feed(memoryview(raw)) == len(raw)
    assert found.found == blocks
    assert bytes(found.memory["vga.vram"]) == video.read_bytes()
    assert set(found.memory["pc.ram"]) == {ord("?")}
    assert raw.endswith(state()[8:] + b"\x06\0\0\0\0")


def test_a_small_block_of_another_size_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "vga").write_bytes(bytes(PAGE))
    parts = compose.incoming_stream("pc", (("vga", 2 * PAGE),), {"vga": tmp_path / "vga"}, state())
    with pytest.raises(MalformedState, match="4096 bytes, expected 8192"):
        b"".join(parts)


def test_a_save_images_header() -> None:
    raw = saveimage.header("<domain/>")
    assert raw[:16] == b"LibvirtQemudSave"
    assert struct.unpack_from("<5I", raw, 16) == (2, 10, 1, 0, 0)
    assert raw[92:] == b"<domain/>\0"
