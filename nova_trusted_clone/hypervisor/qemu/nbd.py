"""A read-only NBD client, for a frozen disk that QEMU exports on a unix socket.

Fixed newstyle handshake with structured replies and the ``base:allocation`` context, so that holes are not read (NBD's
``doc/proto.md``). One request at a time on a connection. Everything the server says is checked against what was asked: lengths
before memory is taken, offsets before they are used.

It never says goodbye: see ``keeper``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from nova_trusted_clone.core.integrity.leaf import SEGMENT_BYTES
from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.hypervisor.base import HypervisorError

LOG = logging.getLogger(__name__)
_MAGIC = 0x4E42444D41474943
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_MAGIC = 0x67446698
_STRUCTURED_MAGIC = 0x668E33EF
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_GO, _OPT_STRUCTURED, _OPT_SET_META = 7, 8, 10
_REP_ACK, _REP_INFO, _REP_META = 1, 3, 4
_INFO_EXPORT = 0
_CMD_READ, _CMD_BLOCK_STATUS = 0, 7
_CHUNK_NONE, _CHUNK_DATA, _CHUNK_HOLE, _CHUNK_STATUS = 0, 1, 2, 5
_CHUNK_ERROR = 1 << 15
_CHUNK_DONE = 1
_CONTEXT = b"base:allocation"
_STATE_ZERO = 2
# Enough for any option reply that this client asks for, and for any error text.
_MAX_OPTION_BYTES = 4096
_MAX_STATUS_BYTES = 4 + 8 * 512
_MAX_CHUNKS = 1024
TIMEOUT_S = 60.0
# QEMU gives a client ten seconds to agree on an export (since CVE-2024-7409): a host that is short of processors needs more.
CONNECT_ATTEMPTS = 4
Keep = Callable[[socket.socket], None]


class NbdError(HypervisorError):
    """The server said something that is not allowed, an error, or nothing."""

    code = "trusted-clone.nbd"


class NbdDropped(NbdError):
    """The server ended the connection: it has refused nothing."""


class NbdClient:
    """One export of one server.

    :raises NbdError: it does not answer as it must
    """

    def __init__(
        self,
        path: pathlib.Path,
        export: str,
        timeout_s: float = TIMEOUT_S,
        keep: Keep = lambda _connection: None,
    ) -> None:
        """:param keep: is given the connection when both have agreed on the export"""
        self._socket = socket.socket(socket.AF_UNIX)
        self._cookie = 0
        self._context: int | None = None
        self.size_bytes = 0
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(str(path))
            self._negotiate(export)
            # Not before: QEMU 7.2 stops its server only when nobody is negotiating any more.
            keep(self._socket)
        except OSError as error:
            self._socket.close()
            raise NbdError(f"{path}: {error}") from error
        except NbdError:
            self._socket.close()
            raise

    @classmethod
    def over(cls, connected: socket.socket, export: str) -> NbdClient:
        """The same over a socket that is connected already."""
        client = cls.__new__(cls)
        client._socket, client._cookie, client._context, client.size_bytes = connected, 0, None, 0
        client._negotiate(export)
        return client

    def close(self) -> None:
        """Let this copy of the connection go."""
        self._socket.close()

    # -- handshake ----------------------------------------------------------------------------------------------------

    def _negotiate(self, export: str) -> None:
        magic, option_magic, flags = struct.unpack(">QQH", self._receive(18))
        if (magic, option_magic) != (_MAGIC, _OPTION_MAGIC) or not flags & _FIXED_NEWSTYLE:
            raise NbdError("no NBD server of the fixed newstyle kind")
        self._send(struct.pack(">I", _FIXED_NEWSTYLE | (flags & _NO_ZEROES)))
        name = export.encode()
        self._option(_OPT_STRUCTURED, b"")
        meta = struct.pack(">I", len(name)) + name
        meta += struct.pack(">II", 1, len(_CONTEXT)) + _CONTEXT
        self._option(_OPT_SET_META, meta)
        self._option(_OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        if not self.size_bytes:
            raise NbdError(f"export {export}: the server gives no size")

    def _option(self, option: int, data: bytes) -> None:
        self._send(struct.pack(">QII", _OPTION_MAGIC, option, len(data)) + data)
        for _ in range(_MAX_CHUNKS):
            magic, about, kind, size = struct.unpack(">QIII", self._receive(20))
            if magic != _OPTION_REPLY_MAGIC or about != option or size > _MAX_OPTION_BYTES:
                raise NbdError(f"option {option}: a malformed reply")
            body = self._receive(size)
            if kind == _REP_ACK:
                return
            if kind & 1 << 31:
                text = body.decode(errors="replace")
                raise NbdError(f"option {option}: refused ({kind & 0xFFFF}) {text}")
            self._note(kind, body)
        raise NbdError(f"option {option}: too many replies")

    def _note(self, kind: int, body: bytes) -> None:
        if kind == _REP_META and len(body) > 4 and body[4:] == _CONTEXT:
            self._context = int.from_bytes(body[:4], "big")
        elif kind == _REP_INFO and len(body) == 12 and body[:2] == struct.pack(">H", _INFO_EXPORT):
            self.size_bytes = int.from_bytes(body[2:10], "big")

    # -- requests -----------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the export.

        :raises NbdError: the server cannot give them
        """
        if not 0 <= offset <= offset + size <= self.size_bytes:
            raise NbdError(f"{size} bytes at {offset}: beyond the end of {self.size_bytes}")
        self._send(self._request(_CMD_READ, offset, size))
        data, covered = bytearray(size), 0
        for chunk in self._chunks(8 + size):
            if chunk.kind == _CHUNK_NONE and not chunk.body:
                continue
            if chunk.kind not in (_CHUNK_DATA, _CHUNK_HOLE) or len(chunk.body) < 8:
                raise NbdError(f"read: an unexpected chunk of type {chunk.kind}")
            at = int.from_bytes(chunk.body[:8], "big") - offset
            if chunk.kind == _CHUNK_DATA:
                length = len(chunk.body) - 8
            elif len(chunk.body) == 12:
                length = int.from_bytes(chunk.body[8:], "big")
            else:
                raise NbdError("read: a malformed hole")
            if not 0 <= at < at + length <= size:
                raise NbdError("read: a chunk beyond what was asked for")
            if chunk.kind == _CHUNK_DATA:
                data[at : at + length] = chunk.body[8:]
            covered += length
        # The protocol forbids overlaps, so equal sums mean that all is there.
        if covered != size:
            raise NbdError(f"read: {covered} bytes of {size}")
        return bytes(data)

    def zero(self, offset: int, size: int) -> bool:
        """Whether the server knows that this range reads as zeros; False when in doubt."""
        if self._context is None:
            return False
        self._send(self._request(_CMD_BLOCK_STATUS, offset, size))
        zero_bytes, started = 0, False
        for chunk in self._chunks(_MAX_STATUS_BYTES):
            if chunk.kind == _CHUNK_NONE and not chunk.body:
                continue
            body = chunk.body
            if chunk.kind != _CHUNK_STATUS or len(body) < 12 or (len(body) - 4) % 8:
                raise NbdError(f"block status: an unexpected chunk of type {chunk.kind}")
            if int.from_bytes(body[:4], "big") != self._context or started:
                raise NbdError("block status: of a context that was not asked for")
            started = True
            for length, state in struct.iter_unpack(">II", body[4:]):
                if not state & _STATE_ZERO:
                    break
                zero_bytes += length
        return zero_bytes >= size

    def _request(self, command: int, offset: int, size: int) -> bytes:
        self._cookie += 1
        return struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, command, self._cookie, offset, size)

    def _chunks(self, limit: int) -> list[_Chunk]:
        """All chunks of the reply to the last request.

        :param limit: the most that they may hold together
        """
        found: list[_Chunk] = []
        total = 0
        while len(found) < _MAX_CHUNKS:
            magic, flags, kind, cookie, size = struct.unpack(">IHHQI", self._receive(20))
            if magic != _STRUCTURED_MAGIC or cookie != self._cookie:
                raise NbdError("a reply to something that was not asked")
            total += max(0, size - 8)
            if size > limit or total > limit:
                raise NbdError(f"a reply of {size} bytes, more than was asked for")
            body = self._receive(size)
            if kind & _CHUNK_ERROR:
                number = int.from_bytes(body[:4], "big")
                raise NbdError(
                    f"the server reports error {number} ({body[6:].decode(errors='replace')})"
                )
            found.append(_Chunk(kind, body))
            if flags & _CHUNK_DONE:
                return found
        raise NbdError("a reply of too many chunks")

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise NbdError(f"the server takes nothing: {error}") from error
        except OSError as error:
            raise NbdDropped(f"the server went away: {error}") from error

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            try:
                count = self._socket.recv_into(view[at:])
            except TimeoutError as error:
                raise NbdError(f"the server does not answer: {error}") from error
            except OSError as error:
                raise NbdDropped(f"the server went away: {error}") from error
            if not count:
                raise NbdDropped("the server closed the connection")
            at += count
        return bytes(data)


@dataclasses.dataclass(frozen=True)
class _Chunk:
    kind: int
    body: bytes


class DiskSource:
    """A frozen disk for the exporter. Connections are opened as threads need them."""

    def __init__(
        self,
        region: Region,
        path: pathlib.Path,
        export: str,
        keep: Keep = lambda _connection: None,
    ) -> None:
        """:param keep: is given each connection, to keep it open when this process ends"""
        self.region = region
        self._keep = keep
        self._path = path
        self._export = export
        self._lock = threading.Lock()
        self._idle: list[NbdClient] = []

    def read(self, index: int) -> bytes:
        """Return segment ``index`` of the frozen disk.

        :raises SourceGone: the export has ended or is not what was frozen
        """
        offset = index * SEGMENT_BYTES
        size = min(SEGMENT_BYTES, self.region.size_bytes - offset)
        if index < 0 or size <= 0:
            raise SourceGone(f"disk {self.region.name} has no segment {index}")
        try:
            with self._borrowed() as client:
                return bytes(size) if client.zero(offset, size) else client.read(offset, size)
        except NbdError as error:
            raise SourceGone(f"disk {self.region.name}: {error}") from error

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[NbdClient]:
        """A connection, which is used again unless it failed: where it stands is not known then."""
        client = self._connection()
        try:
            yield client
        except BaseException:
            client.close()
            raise
        with self._lock:
            self._idle.append(client)

    def _connection(self) -> NbdClient:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        client = self._connected()
        if client.size_bytes != self.region.size_bytes:
            client.close()
            raise NbdError(
                f"it has {client.size_bytes} bytes, frozen were {self.region.size_bytes}"
            )
        return client

    def _connected(self) -> NbdClient:
        """A new connection; one that was dropped before anything was asked for is made anew."""
        for _attempt in range(CONNECT_ATTEMPTS - 1):
            try:
                return NbdClient(self._path, self._export, keep=self._keep)
            except NbdDropped as error:
                LOG.warning("disk %s: %s: connecting again", self.region.name, error)
        return NbdClient(self._path, self._export, keep=self._keep)

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()
