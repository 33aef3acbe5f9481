"""A process at one end of a transfer, asked over its standard input and output: a line of JSON each way."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench.report import BenchError

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
END_LIMIT_S = 20.0
SAMPLE_EVERY_S = 0.02


class Peer:
    """One process; ``hello`` is the line that it began with."""

    def __init__(self, role: str, **arguments: Any) -> None:
        command = [sys.executable, "-m", "bench.roles", role, json.dumps(arguments)]
        self._role = role
        self._process = subprocess.Popen(
            command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hello = self._answer()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, return its answer.

        :raises BenchError: when it ended instead, or says that it failed
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"the {self._role} process ended") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the {self._role} process ended; it said why above")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("failed"):
            raise BenchError(f"the {self._role} process: {answer['failed']}")
        return answer

    def end(self) -> None:
        """End it: its input ends, and it takes that as the sign."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.communicate(timeout=END_LIMIT_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def peer(role: str, **arguments: Any) -> Iterator[Peer]:
    """A process for a block of code."""
    made = Peer(role, **arguments)
    try:
        yield made
    finally:
        made.end()


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process now (RssAnon of proc(5)); 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


class MemoryWatch:
    """The most anonymous memory that some processes had while the block ran.

    :param pids: tell each process's id now; 0: it does not run yet, or no more
    """

    def __init__(self, pids: Mapping[str, Callable[[], int]]) -> None:
        self._pids = pids
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self.peak_bytes = dict.fromkeys(pids, 0)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            for name, pid in self._pids.items():
                self.peak_bytes[name] = max(self.peak_bytes[name], anonymous_bytes(pid()))
