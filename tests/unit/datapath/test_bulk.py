"""Frames: one encoding each, limits before bodies, nothing in the wrong direction."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.core.integrity.segment import SegmentManifest
from nova_trusted_clone.core.integrity.signed import sign_batch
from nova_trusted_clone.datapath import bulk
from nova_trusted_clone.datapath.errors import FrameError

FREEZE = bytes(range(16))
MANIFEST = SegmentManifest.of(FREEZE, Region(1, "ram", "a", 4096), 0, b"x" * 4096)
(SIGNED,) = sign_batch([MANIFEST.encode()], Ed25519PrivateKey.generate())


class Line:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes = b"", step: int = 7) -> None:
        self.data, self.step = data, step

    def recv_into(self, buffer: memoryview) -> int:
        part = self.data[: min(self.step, len(buffer))]
        self.data = self.data[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)


@pytest.mark.parametrize(
    ("request_", "wire"),
    [
        (bulk.Hello(FREEZE), "01" "00000012" "0002" + FREEZE.hex()),
        (bulk.SegmentRequest(2, 3, 0), "03" "00000008" "00000002" "00000003"),
        (bulk.SegmentRequest(2, 3, 5), "02" "00000028" "00000002" "00000003" "05" + "00" * 31),
        (
            bulk.EarlyRequest(2, 3, b"k" * 32),
            "04" "00000028" "00000002" "00000003" + b"k".hex() * 32,
        ),
    ],
)  # fmt: skip
def test_a_request_comes_back_as_it_was(request_: bulk.Request, wire: str) -> None:
    assert bulk.encode_request(request_).hex() == wire
    assert bulk.read_request(Line(bytes.fromhex(wire))) == request_


@pytest.mark.parametrize(
    "reply",
    [
        bulk.Hello(FREEZE),
        bulk.SegmentReply(1, 0, SIGNED, b"x" * 4096),
        bulk.SegmentReply(1, 0, SIGNED, b""),
        bulk.EarlyReply(1, 0, b"abc"),
        bulk.EarlyReply(1, 0, b""),
        bulk.Wait(3),
        bulk.ErrorReply("trusted-clone.source.gone", "it was shut down"),
    ],
)
def test_a_reply_comes_back_as_it_was(reply: bulk.Reply) -> None:
    line = Line()
    bulk.write_reply(line, reply)
    assert bulk.ReplyReader(line).read() == reply


@pytest.mark.parametrize(
    "wire",
    [
        "00" "00000000",
        "02" "00000000",
        "02" "ffffffff",
        "82" "00000028" + "00" * 40,
        "55" "00000008" + "00" * 8,
        "02" "00000028" "00000002" "00000003" + "00" * 32,
        "01" "00000012" "0001" + "00" * 16,
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(wire: str) -> None:
    with pytest.raises(FrameError):
        bulk.read_request(Line(bytes.fromhex(wire)))


@pytest.mark.parametrize(
    "wire",
    [
        "02" "00000028" + "00" * 40,
        "82" "00200000",
        "82" "0000000a" "00000001" "00000000" "00ff",
        "82" "0000000a" "00000001" "00000000" "0000",
        "85" "00000003" "000000",
        "ff" "00010000",
    ],
)  # fmt: skip
def test_what_is_no_reply_is_refused(wire: str) -> None:
    with pytest.raises(FrameError):
        bulk.ReplyReader(Line(bytes.fromhex(wire))).read()


def test_a_line_that_ends_in_mid_frame_is_the_networks_fault() -> None:
    raw = bulk.encode_request(bulk.SegmentRequest(1, 2, 3))
    for length in range(len(raw)):
        with pytest.raises(ConnectionResetError):
            bulk.read_request(Line(raw[:length]))
