"""swtpm's control channel: start it, give it state, take its state, stop it.

Each request is a command number and its fields, big-endian; each answer starts with a result, 0 for
success (swtpm(8), ``tpm_ioctl.h``). swtpm 0.7.1 sends a state blob whole in one answer, and reading
the volatile blob removes it.
"""

from __future__ import annotations

import enum
import socket
import struct

from nova_trusted_clone.vtpm.base import MAX_BLOB, VtpmError, VtpmStateError

_TIMEOUT_S = 30.0
"""INIT loads state in milliseconds and makes a new TPM in a second; longer means that it hangs."""


_NONE_OF_THAT_KIND = 0x800
"""TPM_RETRY, by which libtpms says that there is no such state; a saved state is rarely there."""


class _Command(enum.IntEnum):
    INIT = 0x02
    SHUTDOWN = 0x03
    STORE_VOLATILE = 0x0A
    GET_STATE = 0x0C
    SET_STATE = 0x0D


_WITHOUT_STORAGE_KEY = 0x01
"""PTM_STATE_FLAG_DECRYPTED: without the encryption of swtpm's own files, as QEMU asks for it. A migration key applies all
the same."""


class Blob(enum.IntEnum):
    """The kinds of state."""

    PERMANENT = 1
    VOLATILE = 2
    SAVESTATE = 3


class ControlChannel:
    """Requests to one swtpm, each on a connection of its own."""

    def __init__(self, path: str) -> None:
        """:param path: the Unix control socket"""
        self._path = path

    def init(self) -> None:
        """Power the TPM on; with volatile state present it resumes, else it awaits TPM2_Startup."""
        self._request(_Command.INIT, struct.pack(">I", 0))

    def shutdown(self) -> None:
        """Power the TPM off and end the process."""
        self._request(_Command.SHUTDOWN)

    def store_volatile(self) -> None:
        """Make swtpm write its volatile state, so that it can be fetched."""
        self._request(_Command.STORE_VOLATILE)

    def get_state(self, kind: Blob) -> bytes:
        """Return a state blob, encrypted by the migration key where swtpm has one; empty when there is no saved state."""
        with self._connected() as channel:
            channel.sendall(struct.pack(">IIII", _Command.GET_STATE, _WITHOUT_STORAGE_KEY, kind, 0))
            result, flags, total, length = struct.unpack(">IIII", _read(channel, 16))
            if result == _NONE_OF_THAT_KIND and kind is Blob.SAVESTATE and not total:
                return b""
            _require_success(_Command.GET_STATE, result)
            if flags or total != length or total > MAX_BLOB:
                raise VtpmStateError(
                    f"{kind.name.lower()} state: flags {flags}, {length} of {total} bytes, "
                    f"expected it whole, without the storage key's encryption and up to {MAX_BLOB}"
                )
            return _read(channel, length)

    def set_state(self, kind: Blob, blob: bytes) -> None:
        """Give swtpm a state blob, before ``init``."""
        self._request(_Command.SET_STATE, struct.pack(">III", 0, kind, len(blob)) + blob)

    def _connected(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(_TIMEOUT_S)
        try:
            channel.connect(self._path)
        except OSError as error:
            channel.close()
            raise VtpmError(f"swtpm's control socket: {error}; did swtpm end?") from error
        return channel

    def _request(self, command: _Command, fields: bytes = b"") -> None:
        with self._connected() as channel:
            channel.sendall(struct.pack(">I", command) + fields)
            (result,) = struct.unpack(">I", _read(channel, 4))
        _require_success(command, result)


def _require_success(command: _Command, result: int) -> None:
    if result:
        raise VtpmError(f"swtpm refused {command.name}: result 0x{result:x}")


def _read(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = channel.recv(count - len(parts))
        except OSError as error:
            raise VtpmError(f"swtpm's control socket: {error or 'no answer in time'}") from error
        if not part:
            raise VtpmError(f"swtpm closed its control socket after {len(parts)} of {count} bytes")
        parts += part
    return bytes(parts)
