"""Opening a TPM by its configured transport, for one batch of commands at a time.

``device:/dev/tpmrm0`` is the kernel's resource manager, which keeps users apart. ``swtpm:<Unix
socket>`` is a software TPM, which serves one connection at a time: a lock file beside the socket
lets two processes take turns, with a bounded wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from tpm2_pytss import ESAPI, TCTILdr, TSS2_Exception

from nova_trusted_clone.tpm import base
from nova_trusted_clone.tpm.swtpm_tcti import SwtpmTcti

# libtss2 prints its own account of every refused command to stderr; ours is in the exception. Read
# at each library's first use.
os.environ.setdefault("TSS2_LOG", "all+none")

LOCK_WAIT_S = 30.0
"""A batch takes tens of milliseconds, a first EK seconds: whoever holds the lock longer hangs."""

_LOCK_POLL_S = 0.005


@dataclasses.dataclass(frozen=True)
class Transport:
    """Where a TPM is.

    :ivar kind: ``device`` or ``swtpm``
    :ivar path: the device node or the Unix data socket
    """

    kind: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Transport:
        """Return the transport that a configuration string names; raise ``ValueError`` when it
        names none."""
        kind, _, path = text.partition(":")
        if kind not in ("device", "swtpm") or not path.startswith("/"):
            raise ValueError(
                f"TPM transport {text!r}: expected device:/dev/tpmrm0 or swtpm:/path/of/data/socket"
            )
        return cls(kind, path)

    def __str__(self) -> str:
        """Return the configuration string again."""
        return f"{self.kind}:{self.path}"


@contextlib.contextmanager
def opened(transport: Transport, lock_wait_s: float = LOCK_WAIT_S) -> Iterator[Any]:
    """Yield an open ESAPI for one batch of commands.

    :raises TpmBusyError: when another process keeps it longer than ``lock_wait_s``
    :raises TpmUnreachableError: when it cannot be opened or breaks off
    :raises TpmError: when the TPM refuses a command
    """
    if transport.kind == "device":
        with _opened_device(transport) as esys:
            yield esys
    else:
        with _lock(transport, lock_wait_s), _opened_swtpm(transport) as esys:
            yield esys


@contextlib.contextmanager
def _opened_device(transport: Transport) -> Iterator[Any]:
    try:
        with TCTILdr("device", transport.path) as tcti, ESAPI(tcti) as esys:
            yield esys
    except TSS2_Exception as error:
        raise _translated(transport, error) from error


@contextlib.contextmanager
def _opened_swtpm(transport: Transport) -> Iterator[Any]:
    try:
        tcti = SwtpmTcti(transport.path)
    except OSError as error:
        raise base.TpmUnreachableError(f"TPM {transport}: {error}; is swtpm running?") from error
    try:
        with ESAPI(tcti) as esys:
            yield esys
    except TSS2_Exception as error:
        if tcti.failure is not None:
            raise base.TpmUnreachableError(f"TPM {transport}: {tcti.failure}") from error
        raise _translated(transport, error) from error
    except OSError as error:
        if error is not tcti.failure:
            raise
        raise base.TpmUnreachableError(
            f"TPM {transport}: {error or type(error).__name__}"
        ) from error
    finally:
        tcti.close()


def _translated(transport: Transport, error: Any) -> base.TpmError:
    """Return ours for a libtss2 error: the TCTI layer (0xA) is the way to the TPM, the rest the
    TPM's own answer."""
    kind = base.TpmUnreachableError if (int(error.rc) >> 16) & 0xFF == 0x0A else base.TpmError
    return kind(f"TPM {transport}: {error}")


@contextlib.contextmanager
def _lock(transport: Transport, wait_s: float) -> Iterator[None]:
    path = pathlib.Path(transport.path + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise base.TpmUnreachableError(f"TPM {transport}: its lock file: {error}") from error
    try:
        _wait_for(descriptor, transport, wait_s)
        yield
    finally:
        os.close(descriptor)  # lets the lock go


def _wait_for(descriptor: int, transport: Transport, wait_s: float) -> None:
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise base.TpmBusyError(
                    f"TPM {transport}: held by another process for {wait_s:g} s; "
                    f"find it with fuser {transport.path}.lock"
                ) from None
            time.sleep(_LOCK_POLL_S)
