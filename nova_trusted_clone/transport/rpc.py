"""Requests and replies between the agents of two hosts, and from the operator to an agent.

One connection carries one request and one reply. Each is a CBOR map behind a 4-byte length. Nothing that comes this way is
trusted: the handshake messages inside prove themselves, everything else can at most delay or end a clone.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

import cbor2

from nova_trusted_clone.ports import PeerRefused, PeerUnreachable

LOG = logging.getLogger(__name__)

# A handshake message is 1 MiB at most (core.protocol.wire); a little more for its envelope.
MAX_FRAME_BYTES = (1 << 20) + (1 << 16)
MAX_DEPTH = 8
# Half-open connections must not pile up: each has this long for its request, and there are this many at one time.
REQUEST_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 64

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Address = tuple[str, int] | pathlib.Path


class RpcError(PeerRefused):
    """The other side could not be reached, broke the framing, or answered with an error.

    :ivar code: the stable code of the other side's error, or ``trusted-clone.rpc.*`` for our own
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(RpcError, PeerUnreachable):
    """No answer: worth another try."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "trusted-clone.rpc.unreachable")


class PublicError(Exception):
    """What a handler raises to have its code and words sent to the caller."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 16))
        if not part:
            raise Unreachable("the connection was closed in mid message")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _receive(connection: socket.socket) -> dict[str, Any]:
    (length,) = struct.unpack(">I", _read_exactly(connection, 4))
    if not 1 <= length <= MAX_FRAME_BYTES:
        raise RpcError(
            f"a frame of {length} bytes, allowed are 1 to {MAX_FRAME_BYTES}",
            "trusted-clone.rpc.frame",
        )
    raw = _read_exactly(connection, length)
    try:
        value = cbor2.loads(
            raw,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except cbor2.CBORDecodeError as error:
        raise RpcError(f"a frame that is not CBOR: {error}", "trusted-clone.rpc.frame") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise RpcError("a frame that is not a map with text keys", "trusted-clone.rpc.frame")
    return value


def _send(connection: socket.socket, value: Mapping[str, Any]) -> None:
    raw = cbor2.dumps(dict(value))
    if len(raw) > MAX_FRAME_BYTES:
        raise RpcError(
            f"a message of {len(raw)} bytes, allowed are {MAX_FRAME_BYTES}",
            "trusted-clone.rpc.frame",
        )
    connection.sendall(struct.pack(">I", len(raw)) + raw)


def _connect(address: Address, timeout_s: float) -> socket.socket:
    if isinstance(address, pathlib.Path):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        connection.connect(str(address))
        return connection
    return socket.create_connection(address, timeout=timeout_s)


class Client:
    """Calls operations of one agent."""

    def __init__(self, address: Address, timeout_s: float = 30.0) -> None:
        self._address = address
        self._timeout_s = timeout_s

    def call(
        self, operation: str, *, limit_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Return the reply's map.

        :param limit_s: shorter than the client's own timeout
        :raises Unreachable: when there is no answer in time
        :raises RpcError: when the other side answers with an error; ``code`` says which
        """
        timeout_s = self._timeout_s if limit_s is None else min(limit_s, self._timeout_s)
        try:
            with contextlib.closing(_connect(self._address, timeout_s)) as connection:
                _send(connection, {"op": operation, "args": arguments})
                reply = _receive(connection)
        except OSError as error:
            raise Unreachable(f"{operation}: no answer from {self._address}: {error}") from error
        if "error" in reply:
            raise RpcError(
                str(reply["error"])[:4096],
                str(reply.get("code", "trusted-clone.rpc.unknown"))[:128],
            )
        result = reply.get("ok")
        if not isinstance(result, dict):
            raise RpcError(f"{operation}: a reply without a result", "trusted-clone.rpc.frame")
        return result


class Server:
    """Serves operations on one socket, one thread for each connection."""

    def __init__(self, address: Address, operations: Mapping[str, Handler]) -> None:
        self._operations = dict(operations)
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._socket = self._listen(address)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="rpc", daemon=True)

    @staticmethod
    def _listen(address: Address) -> socket.socket:
        if isinstance(address, pathlib.Path):
            address.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(address))
            address.chmod(0o600)
        else:
            listener = socket.create_server(address)
        listener.listen(MAX_CONNECTIONS)
        return listener

    @property
    def port(self) -> int:
        """The TCP port, for a server that was given port 0."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more; running requests end by themselves."""
        self._closing.set()
        with contextlib.suppress(
            OSError
        ):  # not connected is what a listening socket answers here on some kernels
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not self._slots.acquire(blocking=False):
                LOG.warning("refused a connection: %d are open already", MAX_CONNECTIONS)
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="rpc-request", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.closing(connection):
                connection.settimeout(REQUEST_TIMEOUT_S)
                request = _receive(connection)
                connection.settimeout(None)
                reply = self._answer(request)
                connection.settimeout(REQUEST_TIMEOUT_S)
                _send(connection, reply)
        except (OSError, RpcError) as error:
            LOG.warning("a request was dropped: %s", error)
        finally:
            self._slots.release()

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        name, arguments = request.get("op"), request.get("args")
        if (
            not isinstance(name, str)
            or name not in self._operations
            or not isinstance(arguments, dict)
        ):
            return {
                "error": f"no operation {str(name)[:64]!r} here",
                "code": "trusted-clone.rpc.operation",
            }
        try:
            return {"ok": dict(self._operations[name](arguments))}
        except PublicError as error:
            return {"error": str(error), "code": error.code}
        except Exception:
            LOG.exception("operation %s failed", name)
            return {
                "error": f"{name} failed; the log of the host has the reason",
                "code": "trusted-clone.internal",
            }
