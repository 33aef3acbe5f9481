"""The exporter and store processes as the use cases hold them: started, spoken to, found again, ended."""

from __future__ import annotations

import base64
import os
import pathlib
import shutil
import threading
from collections.abc import Sequence
from typing import Any

import cbor2

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.datapath import mounts, processes
from nova_trusted_clone.datapath.control import ControlClient
from nova_trusted_clone.hypervisor.qemu import access
from nova_trusted_clone.ports import VtpmBlobs

CONTROL_SOCKET = "control.sock"
# A helper that ends is seen at once: this is for one that hangs. A host that is short of processors takes half a minute to
# start one.
START_LIMIT_S = 120.0
DYING_S = 1.0
# What the service tells a guard.
PAUSE_OVER = b"pause over\n"
# Siblings share a store: only one of them may start it.
_STARTING = threading.Lock()


class Helper:
    """One helper process in its directory."""

    def __init__(self, module: str, directory: pathlib.Path) -> None:
        self.directory = directory
        self._module = module
        self._control = ControlClient(directory / CONTROL_SOCKET)

    def start(self) -> None:
        """Start it, or find the one that runs already, and wait until it answers."""
        with _STARTING:
            process = processes.find(self.directory)
            if process is None:
                (self.directory / CONTROL_SOCKET).unlink(missing_ok=True)
                process = processes.start(self._module, self.directory)
        processes.wait_for_path(self.directory / CONTROL_SOCKET, process, START_LIMIT_S)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return processes.find(self.directory) is not None

    def call(
        self, operation: str, /, files: Sequence[int] = (), **arguments: Any
    ) -> dict[str, Any]:
        """Ask it for something.

        :raises ControlError: its own words
        :raises ProcessFailed: when it has ended
        :raises OSError: when it lives and does not answer
        """
        try:
            return self._control.call(operation, files, **arguments)
        except OSError as error:
            process = processes.find(self.directory)
            # One that was killed closes its sockets a moment before it is gone.
            if process is not None and not process.wait(DYING_S):
                raise
            name = self._module.rpartition(".")[2]
            raise processes.ProcessFailed(f"the {name} process ended") from error

    def stop(self) -> None:
        """End it and remove its directory with everything in it; harmless when repeated."""
        process = processes.find(self.directory)
        if process is not None:
            process.end()
        # A store that was killed could not unmount.
        mounts.unmount(self.directory)
        remove(self.directory)


def remove(directory: pathlib.Path) -> None:
    """Remove a directory with everything in it, if there is one."""
    if directory.exists():
        shutil.rmtree(directory)


def encode(value: bytes) -> str:
    """Bytes as the control channel carries them."""
    return base64.b64encode(value).decode()


def decode(value: str) -> bytes:
    """The reverse of ``encode``."""
    return base64.b64decode(value, validate=True)


def pack_vtpm(blobs: VtpmBlobs) -> bytes:
    """A vTPM's state as it stands in a private file, or in the region of a derived vTPM."""
    return cbor2.dumps([blobs.permanent, blobs.volatile, blobs.savestate])


def unpack_vtpm(raw: bytes) -> VtpmBlobs:
    """The reverse of ``pack_vtpm``.

    :raises MalformedInput: when it is no vTPM's state; the words of the parser are left out, as it is secret
    """
    try:
        parts = cbor2.loads(raw, max_depth=1, allow_indefinite=False)
    except cbor2.CBORDecodeError:
        parts = None
    if not isinstance(parts, list) or [type(part) for part in parts] != [bytes] * 3:
        raise MalformedInput("vtpm: expected the three parts of a vTPM's state")
    return VtpmBlobs(*parts)


class Guard:
    """Lets the source run on when this process, or the exporter, dies while the source depends on it."""

    def __init__(
        self,
        directory: pathlib.Path,
        freeze_directory: pathlib.Path,
        exporter_directory: pathlib.Path,
        uri: str,
        server: str,
    ) -> None:
        self._directory = directory
        self._arguments = [
            *("--freeze-directory", str(freeze_directory)),
            *("--exporter-directory", str(exporter_directory)),
            *("--uri", uri),
            *("--server", server),
        ]
        if (daemon := access.daemon()) is not None:
            self._arguments += ["--helper", daemon.command]
        self._write_end = -1
        self._process: processes.ProcessId | None = None

    def start(self) -> None:
        """Start it. It takes a moment to watch: ``wait_until_ready`` comes before the pause."""
        read_end, self._write_end = os.pipe()
        try:
            self._process = processes.start(
                "nova_trusted_clone.cmd.guard", self._directory, self._arguments, stdin=read_end
            )
        finally:
            os.close(read_end)

    def wait_until_ready(self) -> None:
        """Wait until it watches.

        :raises ProcessFailed: when it does not
        """
        assert self._process is not None
        processes.wait_for_path(self._directory / "ready", self._process, START_LIMIT_S)

    def pause_is_over(self) -> None:
        """From now on it watches the exporter alone, until that has taken the memory."""
        os.write(self._write_end, PAUSE_OVER)
        self._close()

    def dismiss(self) -> None:
        """Nothing is left to watch; harmless when repeated, and after a restart."""
        process = processes.find(self._directory)
        if process is not None:
            process.end()
        self._close()
        remove(self._directory)

    def _close(self) -> None:
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1
