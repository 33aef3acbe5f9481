"""Programs: run one to its end, start one that stays, and end one that was started, by its pid and start time.

A pid alone says nothing after a crash, as the kernel gives it to another program; pid and start time together do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from labkit.errors import CommandFailed

Word: TypeAlias = str | os.PathLike[str]
Words: TypeAlias = Sequence[Word]

POLL_S = 0.02
TERM_LIMIT_S = 10.0
KILL_LIMIT_S = 10.0


def run(
    command: Words,
    *,
    script: str | None = None,
    limit_s: float = 120.0,
    env: Mapping[str, str] | None = None,
    cwd: pathlib.Path | None = None,
) -> str:
    """Run ``command`` to its end, with ``script`` on its standard input, and return what it printed.

    :raises CommandFailed: with the command and its output, when it ends with an error or not within ``limit_s``
    """
    words = [os.fspath(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=script,
            stdin=subprocess.DEVNULL if script is None else None,
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=env,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{shlex.join(words)} did not end within {limit_s:g} s") from error
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise CommandFailed(f"{shlex.join(words)} ended with {done.returncode}: {told}")
    return done.stdout


def start_time(pid: int) -> int | None:
    """When ``pid`` started, in clock ticks since boot (proc(5), field 22), or None when there is no such process."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclasses.dataclass(frozen=True)
class Process:
    """A program that stays after the lab's command has ended."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has ``pid`` now.

        :raises CommandFailed: when there is none
        """
        started = start_time(pid)
        if started is None:
            raise CommandFailed(f"process {pid} has ended already")
        return cls(pid, started)

    @classmethod
    def load(cls, path: pathlib.Path) -> Process | None:
        """What ``save`` wrote, or None when the file is missing or was cut short."""
        try:
            record = json.loads(path.read_text())
            return cls(int(record["pid"]), int(record["started"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def save(self, path: pathlib.Path) -> None:
        """Write the record so that a crash leaves the file whole or absent."""
        scratch = path.with_name(path.name + ".new")
        scratch.write_text(json.dumps(dataclasses.asdict(self)))
        scratch.replace(path)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        reap(self.pid)
        return start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process; harmless when it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self) -> None:
        """Ask it to end, then make it end; harmless when it has ended."""
        end_all([self])


def end_all(processes: Sequence[Process]) -> None:
    """End them together: ask all, wait, make those end that are left; harmless for those that have ended.

    :raises CommandFailed: naming what goes on after SIGKILL
    """
    for number, limit_s in ((signal.SIGTERM, TERM_LIMIT_S), (signal.SIGKILL, KILL_LIMIT_S)):
        for process in processes:
            process.signal(number)
        if wait_until(lambda: not any(process.alive for process in processes), limit_s):
            return
    left = [str(process.pid) for process in processes if process.alive]
    raise CommandFailed(f"these processes go on after SIGKILL: {', '.join(left)}")


def start(
    command: Words,
    log: pathlib.Path,
    *,
    env: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
) -> Process:
    """Start a program of its own session, with its output in ``log``, which goes on when the caller ends.

    :param descriptors: open files that it gets, by the same numbers
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=env,
            pass_fds=descriptors,
        )
    # It is ended by its record, by this run of the lab or another: no complaint when the handle goes.
    child.returncode = 0
    return Process.of(child.pid)


def reap(pid: int) -> None:
    """Take a child's exit status, if it is ours and has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def wait_until(condition: Callable[[], bool], limit_s: float, poll_s: float = POLL_S) -> bool:
    """Poll ``condition`` until it holds; False when ``limit_s`` went by."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
