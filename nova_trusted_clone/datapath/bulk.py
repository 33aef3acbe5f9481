"""What store and exporter say to each other inside TLS.

    store                              exporter
    HELLO(version, freeze)         ->
                                   <-  WELCOME(version, freeze)
    SEGMENT(region, index, wanted) ->
    MANIFEST(region, index)        ->
                                   <-  SEGMENT_REPLY(region, index, signed manifest, leaves)
                                   <-  ERROR(code, text)
    EARLY(region, index, known)    ->
                                   <-  EARLY_REPLY(region, index, bytes or nothing)
                                   <-  WAIT(seconds): a reply takes its time, the line is alive

The store may have several requests under way; replies come in their order. A frame is a type, a
length and a body; lengths are checked against the type before a body is read. A manifest says what
the leaves must be: nothing else in a reply is trusted. EARLY gives bytes of a disk before the
freeze, without a manifest: they are a hint of what the frozen disk may hold and are used only where
the frozen, signed leaves are the same.

Version rule: both ends speak exactly one version; another one ends the connection.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from typing import Protocol

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.integrity.leaf import LEAVES_PER_SEGMENT, SEGMENT_BYTES
from nova_trusted_clone.core.integrity.segment import MAX_MANIFEST_BYTES
from nova_trusted_clone.core.integrity.signed import MAX_PROOF_BYTES, SignedManifest
from nova_trusted_clone.datapath.errors import FrameError

VERSION = 2
HEADER = struct.Struct(">BI")
_HELLO = struct.Struct(">H16s")
_PLACE = struct.Struct(">II")
_WANTED = struct.Struct(">II32s")
_REPLY = struct.Struct(">IIH")
_WAIT = struct.Struct(">I")
_BITMAP_BYTES = LEAVES_PER_SEGMENT // 8
MAX_ERROR_BYTES = 2048


class Kind(enum.IntEnum):
    """The type of a frame."""

    HELLO = 0x01
    SEGMENT = 0x02
    MANIFEST = 0x03
    EARLY = 0x04
    WELCOME = 0x81
    SEGMENT_REPLY = 0x82
    EARLY_REPLY = 0x84
    WAIT = 0x85
    ERROR = 0xFF


# The least and the most bytes that a body of each type has.
_LIMITS = {
    Kind.HELLO: (_HELLO.size, _HELLO.size),
    Kind.SEGMENT: (_WANTED.size, _WANTED.size),
    Kind.MANIFEST: (_PLACE.size, _PLACE.size),
    Kind.EARLY: (_WANTED.size, _WANTED.size),
    Kind.WELCOME: (_HELLO.size, _HELLO.size),
    Kind.SEGMENT_REPLY: (
        _REPLY.size,
        _REPLY.size + MAX_MANIFEST_BYTES + MAX_PROOF_BYTES + SEGMENT_BYTES,
    ),
    Kind.EARLY_REPLY: (_PLACE.size, _PLACE.size + SEGMENT_BYTES),
    Kind.WAIT: (_WAIT.size, _WAIT.size),
    Kind.ERROR: (2, MAX_ERROR_BYTES),
}
MAX_REPLY_BYTES = max(most for _, most in _LIMITS.values())
REQUESTS = frozenset((Kind.HELLO, Kind.SEGMENT, Kind.MANIFEST, Kind.EARLY))
REPLIES = frozenset(Kind) - REQUESTS


@dataclasses.dataclass(frozen=True)
class Hello:
    """HELLO and, as an answer, WELCOME: both ends name the freeze."""

    freeze_id: bytes


@dataclasses.dataclass(frozen=True)
class SegmentRequest:
    """Asks for a segment's manifest and, of the wanted leaves, those that are not zero.

    :ivar wanted_bits: bit n is set for leaf n; none: the manifest alone
    """

    region: int
    index: int
    wanted_bits: int


@dataclasses.dataclass(frozen=True)
class EarlyRequest:
    """Asks for a disk's segment before the freeze, unless it still has the SHA-256 ``known``."""

    region: int
    index: int
    known: bytes


@dataclasses.dataclass(frozen=True)
class SegmentReply:
    """A segment's signed manifest and the leaves that were asked for; nothing of it is checked
    yet."""

    region: int
    index: int
    signed: SignedManifest
    data: bytes | bytearray | memoryview = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class EarlyReply:
    """A segment before the freeze; empty when it is still the known one."""

    region: int
    index: int
    data: bytes | bytearray | memoryview = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Wait:
    """The reply is not ready yet."""

    waited_s: int


@dataclasses.dataclass(frozen=True)
class ErrorReply:
    """The request cannot be answered.

    :ivar code: ``trusted-clone.…``
    """

    code: str
    text: str


Request = Hello | SegmentRequest | EarlyRequest
Reply = Hello | SegmentReply | EarlyReply | Wait | ErrorReply


def decode_header(raw: bytes, allowed: frozenset[Kind]) -> tuple[Kind, int]:
    """Return the type and the length of the body that follows.

    :raises FrameError: when the type is not allowed here or the length is not one of it
    """
    number, length = HEADER.unpack(raw)
    if number not in Kind.__members__.values() or Kind(number) not in allowed:
        raise FrameError(f"frame type {number:#x} is not allowed here")
    kind = Kind(number)
    least, most = _LIMITS[kind]
    if not least <= length <= most:
        raise FrameError(f"{kind.name}: {length} bytes, expected {least} to {most}")
    return kind, length


def encode_request(request: Request) -> bytes:
    """A request's whole frame."""
    match request:
        case Hello(freeze_id):
            kind, body = Kind.HELLO, _HELLO.pack(VERSION, freeze_id)
        case SegmentRequest(region, index, 0):
            kind, body = Kind.MANIFEST, _PLACE.pack(region, index)
        case SegmentRequest(region, index, wanted):
            bitmap = wanted.to_bytes(_BITMAP_BYTES, "little")
            kind, body = Kind.SEGMENT, _WANTED.pack(region, index, bitmap)
        case EarlyRequest(region, index, known):
            kind, body = Kind.EARLY, _WANTED.pack(region, index, known)
    return HEADER.pack(kind, len(body)) + body


def decode_request(kind: Kind, body: bytes | memoryview) -> Request:
    """Read a request's body.

    :raises FrameError: names what is wrong
    """
    match kind:
        case Kind.HELLO:
            return _decode_hello(body)
        case Kind.MANIFEST:
            region, index = _PLACE.unpack(body)
            return SegmentRequest(region, index, 0)
        case Kind.SEGMENT:
            region, index, bitmap = _WANTED.unpack(body)
            wanted = int.from_bytes(bitmap, "little")
            if not wanted:
                raise FrameError("SEGMENT: no leaf is wanted")
            return SegmentRequest(region, index, wanted)
        case Kind.EARLY:
            return EarlyRequest(*_WANTED.unpack(body))
    raise FrameError(f"{kind.name} is not a request")


def _decode_hello(body: bytes | memoryview) -> Hello:
    version, freeze_id = _HELLO.unpack(body)
    if version != VERSION:
        raise FrameError(f"the other end speaks version {version}, this one {VERSION}")
    return Hello(freeze_id)


def encode_reply(reply: Reply) -> tuple[bytes, bytes | bytearray | memoryview]:
    """A reply's frame as its head and its bulk, so that the bulk need not be copied."""
    bulk: bytes | bytearray | memoryview = b""
    match reply:
        case Hello(freeze_id):
            kind, head = Kind.WELCOME, _HELLO.pack(VERSION, freeze_id)
        case SegmentReply(region, index, signed, data):
            manifest = signed.encode()
            head = _REPLY.pack(region, index, len(manifest)) + manifest
            kind, bulk = Kind.SEGMENT_REPLY, data
        case EarlyReply(region, index, data):
            kind, head, bulk = Kind.EARLY_REPLY, _PLACE.pack(region, index), data
        case Wait(waited):
            kind, head = Kind.WAIT, _WAIT.pack(waited)
        case ErrorReply(code, text):
            kind, head = Kind.ERROR, f"{code} {text}".encode()[:MAX_ERROR_BYTES]
    return HEADER.pack(kind, len(head) + len(bulk)) + head, bulk


def decode_reply(kind: Kind, body: memoryview) -> Reply:
    """Read a reply's body; bulk bytes are views into it.

    :raises FrameError: names what is wrong
    """
    match kind:
        case Kind.WELCOME:
            return _decode_hello(body)
        case Kind.SEGMENT_REPLY:
            return _decode_segment_reply(body)
        case Kind.EARLY_REPLY:
            region, index = _PLACE.unpack_from(body)
            return EarlyReply(region, index, body[_PLACE.size :])
        case Kind.WAIT:
            return Wait(*_WAIT.unpack(body))
        case Kind.ERROR:
            code, _, text = bytes(body).decode(errors="replace").partition(" ")
            return ErrorReply(code, text)
    raise FrameError(f"{kind.name} is not a reply")


def _decode_segment_reply(body: memoryview) -> SegmentReply:
    region, index, length = _REPLY.unpack_from(body)
    end = _REPLY.size + length
    if end > len(body):
        raise FrameError(f"SEGMENT_REPLY: a manifest of {length} bytes is longer than its frame")
    try:
        signed = SignedManifest.decode(bytes(body[_REPLY.size : end]))
    except MalformedInput as error:
        raise FrameError(f"SEGMENT_REPLY: {error}") from error
    return SegmentReply(region, index, signed, body[end:])


class Stream(Protocol):
    """The part of a socket that framing needs."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read some bytes; 0 at the end."""

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None:
        """Write all bytes."""


def _fill(stream: Stream, view: memoryview) -> None:
    while view:
        count = stream.recv_into(view)
        if not count:
            raise ConnectionResetError("the other end closed the connection")
        view = view[count:]


def _read_exactly(stream: Stream, size: int) -> bytes:
    buffer = bytearray(size)
    _fill(stream, memoryview(buffer))
    return bytes(buffer)


def read_request(stream: Stream) -> Request:
    """Read one request.

    :raises FrameError: when it is not one
    :raises OSError: when the line breaks
    """
    kind, length = decode_header(_read_exactly(stream, HEADER.size), REQUESTS)
    return decode_request(kind, _read_exactly(stream, length))


class ReplyReader:
    """Reads replies into one buffer: a fresh megabyte for each would be a page fault for each 4 KiB."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = memoryview(bytearray(MAX_REPLY_BYTES))

    def read(self) -> Reply:
        """Read one reply; its bulk is valid until the next one is read.

        :raises FrameError: when it is not one
        :raises OSError: when the line breaks
        """
        kind, length = decode_header(_read_exactly(self._stream, HEADER.size), REPLIES)
        body = self._buffer[:length]
        _fill(self._stream, body)
        return decode_reply(kind, body)


def write_reply(stream: Stream, reply: Reply) -> None:
    """Write one reply.

    :raises OSError: when the line breaks
    """
    head, bulk = encode_reply(reply)
    stream.sendall(head)
    if len(bulk):
        stream.sendall(bulk)
