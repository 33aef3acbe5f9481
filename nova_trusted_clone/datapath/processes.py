"""Helper processes that outlive the service which started them, and how they are found again.

A process is named by its pid and its start time, so that a pid that the kernel gave to somebody else is never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

RECORD = "process.json"
POLL_S = 0.02


class ProcessFailed(Exception):
    """A helper process did not start, or ended by itself."""


@dataclasses.dataclass(frozen=True)
class ProcessId:
    """A process for as long as it lives.

    :ivar start_ticks: field 22 of /proc/PID/stat (proc(5)): clock ticks after the machine's boot
    """

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Name a living process.

        :raises ProcessFailed: when there is none
        """
        ticks = _start_ticks(pid)
        if ticks is None:
            raise ProcessFailed(f"process {pid} has ended")
        return cls(pid, ticks)

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return _start_ticks(self.pid) == self.start_ticks

    def end(self, grace_s: float = 5.0) -> None:
        """Ask it to end, then make it; harmless when it has ended."""
        self._signal(signal.SIGTERM)
        if not self.wait(grace_s):
            self._signal(signal.SIGKILL)
            self.wait(grace_s)

    def wait(self, limit_s: float) -> bool:
        """Return whether it has ended within the limit."""
        deadline = time.monotonic() + limit_s
        while self.alive:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _signal(self, number: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _start_ticks(pid: int) -> int | None:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in field 2 may hold blanks and brackets: what follows the last bracket is regular.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def start(
    module: str,
    directory: pathlib.Path,
    arguments: Sequence[str] = (),
    stdin: int = subprocess.DEVNULL,
) -> ProcessId:
    """Start ``python -m module --directory DIRECTORY ARGUMENTS`` in a session of its own and record it there.

    Its output goes to ``DIRECTORY/output.log``: what a helper could not log by itself is found there.

    :param stdin: a descriptor that becomes its standard input; nothing by default
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "output.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--directory", str(directory), *arguments],
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    identity = ProcessId.of(process.pid)
    _write_record(directory, identity)
    return identity


def _write_record(directory: pathlib.Path, identity: ProcessId) -> None:
    temporary = directory / f".{RECORD}"
    temporary.write_text(json.dumps(dataclasses.asdict(identity)))
    temporary.replace(directory / RECORD)


def find(directory: pathlib.Path) -> ProcessId | None:
    """Return the process recorded in ``directory`` if it still runs."""
    try:
        raw = json.loads((directory / RECORD).read_text())
        identity = ProcessId(int(raw["pid"]), int(raw["start_ticks"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return identity if identity.alive else None


def wait_for_path(path: pathlib.Path, process: ProcessId, limit_s: float) -> None:
    """Wait until the process has made ``path``, which says that it is ready.

    :raises ProcessFailed: when it ends before, or takes longer than the limit
    """
    deadline = time.monotonic() + limit_s
    while not path.exists():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        if not process.alive:
            raise ProcessFailed(
                f"the helper in {path.parent} ended before it was ready; see its output.log"
            )
        if time.monotonic() > deadline:
            raise ProcessFailed(f"the helper in {path.parent} was not ready within {limit_s:.0f} s")
        time.sleep(POLL_S)
