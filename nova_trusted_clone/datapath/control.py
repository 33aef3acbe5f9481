"""The control channel of a helper process: a unix socket in its private directory.

One connection carries one request and one reply, each a JSON object after a 4-byte big-endian length. What an operation takes
is declared as a table of fields; a request with a missing, unknown or wrong field is answered with an error that names it. A
request may bring open descriptors (unix(7), SCM_RIGHTS): of what the helper may not open itself.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.datapath import passing
from nova_trusted_clone.datapath.errors import DatapathError
from nova_trusted_clone.transport.tls import TransportError

LOG = logging.getLogger(__name__)
# The longest request is a table of regions: 4096 of them with names of 255 bytes.
MAX_MESSAGE_BYTES = 2 << 20
MAX_CONNECTIONS = 32
REQUEST_LIMIT_S = 10.0
MAX_FILES = 8
_LENGTH = struct.Struct(">I")
# struct ucred of unix(7): pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")


class ControlError(DatapathError):
    """The helper refused a request or could not carry it out; the message is its own."""

    code = "trusted-clone.control"


class FieldError(ControlError):
    """A request is not as its operation demands; the message names the field."""

    code = "trusted-clone.control.field"


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field must be.

    :ivar decode: turns the JSON value into what the operation takes; raises ValueError with what was expected
    """

    decode: Callable[[Any], Any]
    required: bool = True


def _typed(kind: type, what: str) -> Callable[[Any], Any]:
    def decode(value: Any) -> Any:
        # bool is an int to Python; here it is not.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"expected {what}")
        return value

    return decode


def _base64(value: Any) -> bytes:
    try:
        return base64.b64decode(_typed(str, "base64")(value), validate=True)
    except binascii.Error:
        raise ValueError("expected base64") from None


def _hex(value: Any) -> bytes:
    try:
        return bytes.fromhex(_typed(str, "hexadecimal digits")(value))
    except ValueError:
        raise ValueError("expected hexadecimal digits") from None


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise ValueError("expected seconds, 0 or more")
    return float(value)


TEXT = Field(_typed(str, "text"))
NUMBER = Field(_typed(int, "a whole number"))
LIST = Field(_typed(list, "a list"))
BASE64 = Field(_base64)
HEX = Field(_hex)
SECONDS = Field(_seconds)


def optional(field: Field) -> Field:
    """The same field, which may be left out."""
    return dataclasses.replace(field, required=False)


@dataclasses.dataclass(frozen=True)
class Operation:
    """What a helper can be asked for.

    :ivar run: called with the decoded fields by name; returns a JSON object or nothing
    :ivar files: open descriptors that a request brings, exactly so many, or none where ``files_optional``; given as ``files``
        (a tuple), and from then on the operation's to close
    """

    run: Callable[..., Mapping[str, Any] | None]
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    files: int = 0
    files_optional: bool = False


def decode_arguments(operation: str, fields: Mapping[str, Field], raw: Any) -> dict[str, Any]:
    """Check and decode a request's arguments.

    :raises FieldError: names the field
    """
    if not isinstance(raw, dict):
        raise FieldError(f"{operation}: arguments: expected an object")
    for name in raw:
        if name not in fields:
            raise FieldError(f"{operation}: {name}: there is no such field")
    arguments = {}
    for name, field in fields.items():
        if name not in raw:
            if field.required:
                raise FieldError(f"{operation}: {name}: is missing")
            continue
        try:
            arguments[name] = field.decode(raw[name])
        except ValueError as error:
            raise FieldError(f"{operation}: {name}: {error}") from None
    return arguments


def _send(connection: socket.socket, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    raw = json.dumps(message).encode()
    if len(raw) > MAX_MESSAGE_BYTES:
        raise ControlError(
            f"a message of {len(raw)} bytes; at most {MAX_MESSAGE_BYTES} are allowed"
        )
    if files:
        socket.send_fds(connection, [_LENGTH.pack(len(raw))], list(files))
        connection.sendall(raw)
    else:
        connection.sendall(_LENGTH.pack(len(raw)) + raw)


def _receive(connection: socket.socket, head: bytes = b"") -> dict[str, Any]:
    (length,) = _LENGTH.unpack(head + passing.read_exactly(connection, _LENGTH.size - len(head)))
    if not 0 < length <= MAX_MESSAGE_BYTES:
        raise ControlError(f"a message of {length} bytes; 1 to {MAX_MESSAGE_BYTES} are allowed")
    try:
        message = json.loads(passing.read_exactly(connection, length))
    except (ValueError, RecursionError) as error:
        raise ControlError(f"a message that is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ControlError("a message that is not a JSON object")
    return message


@contextlib.contextmanager
def _short_path(path: pathlib.Path) -> Iterator[str]:
    """A name of the socket that fits into 108 bytes (unix(7)) however deep its directory is."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class ControlClient:
    """Asks a helper; a connection for each request, so that it can be kept over the helper's restart."""

    def __init__(self, path: pathlib.Path, timeout_s: float = 60.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def call(
        self, operation: str, /, files: Sequence[int] = (), **arguments: Any
    ) -> dict[str, Any]:
        """Ask for an operation and return its result.

        :param files: open descriptors to take along; the caller's to close
        :raises ControlError: the helper's own words
        :raises OSError: when the helper cannot be reached
        """
        with socket.socket(socket.AF_UNIX) as connection, _short_path(self._path) as name:
            connection.settimeout(self._timeout_s)
            connection.connect(name)
            _send(connection, {"operation": operation, "arguments": arguments}, files)
            reply = _receive(connection)
        error = reply.get("error")
        if isinstance(error, dict):
            raise ControlError(str(error.get("message")), code=str(error.get("code")))
        result = reply.get("result")
        if not isinstance(result, dict):
            raise ControlError(f"{operation}: the reply holds no result")
        return result


class ControlServer:
    """Answers requests on a socket in a directory that only its owner may enter."""

    def __init__(self, path: pathlib.Path, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._operations = operations
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._listener = socket.socket(socket.AF_UNIX)

    def start(self) -> None:
        """Listen. The socket appears under its name only when it answers.

        :raises OSError: when the socket cannot be made
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.parent.chmod(0o700)
        new = self._path.with_name(f".{self._path.name}")
        new.unlink(missing_ok=True)
        with _short_path(new) as name:
            self._listener.bind(name)
        self._listener.listen(MAX_CONNECTIONS)
        new.rename(self._path)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # Closed: the process ends.
                return
            self._slots.acquire()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(REQUEST_LIMIT_S)
                _send(connection, self._reply(connection))
        except (OSError, DatapathError) as error:
            LOG.info("control connection: %s", error)
        finally:
            self._slots.release()

    def _reply(self, connection: socket.socket) -> dict[str, Any]:
        files: tuple[int, ...] = ()
        try:
            _require_owner(connection)
            head, files = passing.receive(connection, _LENGTH.size, MAX_FILES)
            operation, arguments = self._read(_receive(connection, head), len(files))
            if files:
                arguments["files"], files = files, ()
            return {"result": dict(operation.run(**arguments) or {})}
        except (DatapathError, CoreError) as error:
            return {"error": {"code": error.code, "message": str(error)}}
        except (OSError, TransportError) as error:
            return {"error": {"code": ControlError.code, "message": str(error)}}
        finally:
            for descriptor in files:
                os.close(descriptor)

    def _read(self, message: Mapping[str, Any], files: int) -> tuple[Operation, dict[str, Any]]:
        name = message.get("operation")
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            raise FieldError(
                f"operation: there is no {name!r}; known: {', '.join(self._operations)}"
            )
        arguments = decode_arguments(str(name), operation.fields, message.get("arguments", {}))
        if files != operation.files and (files or not operation.files_optional):
            raise FieldError(f"{name}: {files} descriptors came, {operation.files} expected")
        return operation, arguments


def _require_owner(connection: socket.socket) -> None:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    if uid not in (0, os.geteuid()):
        raise ControlError(f"user {uid} may not control this process")
