"""One swtpm process and its private directory; and the clearing away of those whose owner died.

State root (0700)/owner-PID-STARTTIME/NAME/: tpm state, sockets, ``pid``. Process ids are reused, so
each is told by its start time too. Put the state root on tmpfs: state is overwritten when wiped,
which only memory keeps as promised.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import time

from nova_trusted_clone.ports import Passphrase
from nova_trusted_clone.vtpm.base import VtpmError
from nova_trusted_clone.vtpm.control import ControlChannel

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.002

_MAX_SOCKET_PATH = 107
"""sun_path of unix(7) without its end."""

_OWNER = re.compile(r"owner-(\d+)-(\d+)")


def start_time(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot (proc(5), field 22), None
    when it does not live."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def owned_directory(root: pathlib.Path) -> pathlib.Path:
    """Return this process's directory under ``root``, made private; first clear away those of
    dead processes."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.geteuid() or root.stat().st_mode & 0o077:
        raise VtpmError(f"{root}: expected a directory of this user's with mode 0700")
    clear_dead(root)
    mine = root / f"owner-{os.getpid()}-{start_time(os.getpid())}"
    mine.mkdir(mode=0o700, exist_ok=True)
    return mine


def clear_dead(root: pathlib.Path) -> None:
    """End the swtpms of processes that no longer live and wipe their state."""
    for directory in root.iterdir():
        match = _OWNER.fullmatch(directory.name)
        if match is None or start_time(int(match[1])) == int(match[2]):
            continue
        for instance in directory.iterdir():
            _end_recorded(instance / "pid")
            wipe(instance)
        shutil.rmtree(directory)


def _end_recorded(pid_file: pathlib.Path) -> None:
    """End the process that ``pid_file`` names, when it is still that one."""
    try:
        pid, started = (int(part) for part in pid_file.read_text().split())
    except (FileNotFoundError, ValueError):
        return  # the owner died before it had started one
    if start_time(pid) == started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while start_time(pid) == started:
            if time.monotonic() > deadline_s:
                raise VtpmError(f"swtpm {pid} of a dead owner does not end; end it by hand")
            time.sleep(_POLL_S)


def wipe(directory: pathlib.Path) -> None:
    """Overwrite every file below ``directory`` and remove it; harmless when it is gone."""
    if not directory.exists():
        return
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("r+b") as file:
                file.write(bytes(path.stat().st_size))
    shutil.rmtree(directory)


class SwtpmProcess:
    """swtpm on two Unix sockets in a directory of its own.

    :ivar directory: private; ``state`` holds the TPM's state
    :ivar control: its control channel
    """

    def __init__(self, parent: pathlib.Path) -> None:
        """Make the directory; nothing runs yet. Its name is short: socket paths have a limit."""
        self.directory = parent / secrets.token_hex(4)
        self.directory.mkdir(mode=0o700)
        self._data = self.directory / "data"
        control = self.directory / "ctrl"
        if len(str(control)) > _MAX_SOCKET_PATH:
            self.directory.rmdir()
            raise VtpmError(
                f"{control}: longer than {_MAX_SOCKET_PATH}; choose a shorter state root"
            )
        self.control = ControlChannel(str(control))
        self._control_path = control
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def transport(self) -> str:
        """The transport string of its data socket."""
        return f"swtpm:{self._data}"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def manufacture(self) -> None:
        """Make a new TPM's state with the SHA-256 bank alone, by swtpm's own tool. Takes 0.6 s.

        Without an EK certificate: ours are all issued in one way, with a term and a name of the
        host (``issuer``), while swtpm_localca's never expire and carry one issuer name.
        """
        command = ["swtpm_setup", "--tpm2", "--tpm-state", str(self.directory)]
        command += ["--pcr-banks", "sha256"]
        environment = {**os.environ, "TMPDIR": str(self.directory)}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False, timeout=60
        )
        if done.returncode:
            raise VtpmError(
                f"swtpm_setup ended with {done.returncode}: {done.stderr.strip()[-300:]}"
            )

    def start(self, key: Passphrase | None = None, migration_key: Passphrase | None = None) -> None:
        """Start the process and wait until both sockets listen; the TPM is not powered on yet.

        :param key: encrypts its files
        :param migration_key: encrypts state that it takes and gives
        """
        for path in (self._data, self._control_path):
            path.unlink(missing_ok=True)  # of a process that ran here before
        command = ["swtpm", "socket", "--tpm2"]
        command += ["--tpmstate", f"dir={self.directory},mode=0600"]
        command += ["--server", f"type=unixio,path={self._data},mode=0600"]
        command += ["--ctrl", f"type=unixio,path={self._control_path},mode=0600"]
        with (self.directory / "log").open("wb") as log, contextlib.ExitStack() as handed:
            descriptors = []
            for option, passphrase in (("--key", key), ("--migration-key", migration_key)):
                if passphrase is not None:
                    descriptors.append(_readable(passphrase))
                    handed.callback(os.close, descriptors[-1])
                    # As libvirt starts it (qemu_tpm.c): the state goes to and fro between the two.
                    command += [option, f"pwdfd={descriptors[-1]},mode=aes-256-cbc"]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                start_new_session=True,  # a signal to our terminal is not one to the guest's TPM
            )
        started = start_time(self._process.pid)
        (self.directory / "pid").write_text(f"{self._process.pid} {started}\n")
        self._await_sockets()

    def _await_sockets(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (self._data.exists() and self._control_path.exists()):
            if not self.running or time.monotonic() > deadline_s:
                log = (self.directory / "log").read_text(errors="replace").strip()
                self.stop()
                raise VtpmError(f"swtpm did not start: {log[-300:] or 'no message'}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the process; harmless when repeated."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def discard(self) -> None:
        """End the process and wipe its directory; harmless when repeated."""
        self.stop()
        wipe(self.directory)


def _readable(passphrase: Passphrase) -> int:
    """A descriptor that reads a passphrase from memory, so that it is on no disk and in no argument."""
    descriptor = os.memfd_create("passphrase", os.MFD_CLOEXEC)
    os.write(descriptor, passphrase.value)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
