"""The saver's process as the freeze holds it: started, spoken to by lines, ended."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import time
from typing import Any

from nova_trusted_clone.hypervisor.base import FreezeFailed, HypervisorError
from nova_trusted_clone.hypervisor.qemu.process import ProcessId

MODULE = "nova_trusted_clone.hypervisor.xen.saver"
# It starts within a second; on a host that is short of processors one has taken a minute.
START_LIMIT_S = 180.0
# libxl itself gives a domain a minute to suspend; its memory is copied before that, at the pace of a disk at worst.
SAVE_LIMIT_S = 1800.0
RESUME_LIMIT_S = 60.0
MAX_LINE_BYTES = 1 << 16


class DomainGone(FreezeFailed):
    """The domain is no longer there."""


class Saver:
    """A saver of one domain. Use it in a ``with`` block: at its end the process is gone and the domain runs."""

    def __init__(self, *arguments: str, log: pathlib.Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                bufsize=0,
            )
        self._waiting = b""
        self.identity = ProcessId.of(self._process.pid)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        # It hears that the other end is closed, lets the domain go on and ends.
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(RESUME_LIMIT_S)
        except subprocess.TimeoutExpired:
            end(self.identity)
            self._process.wait()

    def say(self, word: str) -> None:
        """Tell it to go on."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word.encode() + b"\n")
        except OSError as error:
            raise FreezeFailed(f"the process that saves the domain is gone: {error}") from error

    def await_event(self, event: str, limit_s: float) -> dict[str, Any]:
        """Wait for the event, which must be the next.

        :raises DomainGone: its reason, which is that
        :raises FreezeFailed: its reason, or that it ended or took longer
        """
        line = self._line(time.monotonic() + limit_s, event)
        try:
            told = json.loads(line)
        except ValueError as error:
            raise FreezeFailed(f"the process that saves the domain: {line[:200]!r}") from error
        if not isinstance(told, dict) or told.get("event") != event:
            raise _failure(told)
        return told

    def _line(self, deadline: float, event: str) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._waiting:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise FreezeFailed(
                        f"the process that saves the domain did not say {event!r} in time"
                    )
                part = os.read(self._process.stdout.fileno(), 1 << 12)
                if not part or len(self._waiting) > MAX_LINE_BYTES:
                    raise FreezeFailed(
                        f"the process that saves the domain ended before it said {event!r}"
                    )
                self._waiting += part
        line, _, self._waiting = self._waiting.partition(b"\n")
        return line


def _failure(told: Any) -> FreezeFailed:
    if not isinstance(told, dict):
        return FreezeFailed(str(told))
    kind = DomainGone if told.get("gone") is True else FreezeFailed
    return kind(str(told.get("reason")))


def end(process: ProcessId) -> None:
    """End a saver and libxl's own helper with it; harmless when they are gone."""
    if process.alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def let_run(domain: int, log: pathlib.Path) -> None:
    """Resume a domain that a saver may have left suspended; one that is gone need not be.

    :raises HypervisorError: it could not be
    """
    with Saver("resume", str(domain), log=log) as saver:
        try:
            saver.await_event("resumed", RESUME_LIMIT_S)
        except DomainGone:
            return
        except FreezeFailed as error:
            raise HypervisorError(f"domain {domain} may stand still: {error}") from error
