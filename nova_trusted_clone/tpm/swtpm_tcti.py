"""TPM commands over swtpm's data socket: a TCTI in a few lines, as libtss2's own wants the control
socket at a fixed place beside it.

swtpm serves one data connection at a time and ``ESAPI.close()`` does not finalize a TCTI that its
caller made: whoever opens one closes it with ``close``, or the next client waits for ever.
"""

from __future__ import annotations

import socket
import struct

from tpm2_pytss.TCTI import PyTCTI

MAX_RESPONSE = 4096
"""No TPM 2.0 response is longer (TPM_PT_MAX_RESPONSE_SIZE of swtpm and of hardware TPMs)."""

HEADER_SIZE = 10
"""Tag, size and response code (TPM 2.0 Library, part 1, 18)."""

ANSWER_TIMEOUT_S = 60.0
"""Making an RSA primary takes seconds on a slow machine; longer than this means that nobody
answers."""


class SwtpmTcti(PyTCTI):  # type: ignore[misc]
    """One connection to an swtpm's Unix data socket.

    :ivar failure: the error that broke the connection, as ESAPI reports only a number
    """

    def __init__(self, path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.failure: Exception | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        super().__init__(max_size=MAX_RESPONSE)

    def close(self) -> None:
        """Close the connection; repeatable."""
        self._socket.close()

    def do_transmit(self, command: bytes) -> None:
        """Send one command; called by ESAPI."""
        try:
            self._socket.sendall(command)
        except OSError as error:
            self.failure = error
            raise

    def do_receive(self, timeout: int) -> bytes:
        """Return one whole response; called by ESAPI, whose ``timeout`` is always "block": ours
        holds."""
        try:
            header = self._read(HEADER_SIZE)
            (size,) = struct.unpack_from(">I", header, 2)
            if not HEADER_SIZE <= size <= MAX_RESPONSE:
                raise OSError(
                    f"a response of {size} bytes, expected {HEADER_SIZE} to {MAX_RESPONSE}"
                )
            return header + self._read(size - HEADER_SIZE)
        except OSError as error:
            self.failure = error
            raise

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                raise OSError(f"closed after {len(parts)} of {count} bytes of a response")
            parts += part
        return bytes(parts)
