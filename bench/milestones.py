"""Where the time goes between an order and the clone's first output: from the agents' logs, QEMU's
events and the clone's console."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import re
import threading
import time
from collections.abc import Iterable, Mapping

# In the order in which they come; each with the phase that ends there, for people.
MILESTONES: Mapping[str, str] = {
    "attesting": "order and exporter",
    "proven": "attestation",
    "fetching": "freeze, offer, vTPM quote",
    "restoring": "first small regions",
    "started": "restore: until QEMU runs",
    "running": "QEMU loads, card silenced",
    "output": "the guest runs and prints",
}
_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) .*? clone (?P<clone>[0-9a-f]{32}): (?P<phase>\w+)"
)
POLL_S = 0.002


def phases(log: Iterable[str], clone_id: str) -> dict[str, float]:
    """When an agent's log says that a clone first entered each phase, seconds since 1970 by the local clock."""
    found: dict[str, float] = {}
    for line in log:
        match = _LINE.match(line)
        if match and match["clone"] == clone_id:
            at = datetime.datetime.strptime(match["time"], "%Y-%m-%d %H:%M:%S.%f")
            found.setdefault(match["phase"], at.timestamp())
    return found


class ConsoleWatch:
    """Notes when a clone's console file appeared (QEMU runs) and when it was first written to."""

    def __init__(self, path: pathlib.Path, limit_s: float) -> None:
        self._path = path
        self._deadline = time.monotonic() + limit_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="console", daemon=True)
        self.started_at: float | None = None
        self.output_at: float | None = None

    def __enter__(self) -> ConsoleWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def wait(self) -> None:
        """Until there was output, or the limit."""
        self._thread.join()

    def _watch(self) -> None:
        while time.monotonic() < self._deadline and not self._ended.wait(POLL_S):
            try:
                size = self._path.stat().st_size
            except FileNotFoundError:
                continue
            self.started_at = self.started_at or time.time()
            if size:
                self.output_at = time.time()
                return


@dataclasses.dataclass(frozen=True)
class Timeline:
    """One clone's milestones, seconds since its order; those that were not seen are missing."""

    after_s: Mapping[str, float]

    @classmethod
    def of(cls, ordered_at: float, told: Mapping[str, float], watch: ConsoleWatch) -> Timeline:
        """Put together what the logs told and what the console showed."""
        known = dict(told)
        for name, at in (("started", watch.started_at), ("output", watch.output_at)):
            if at is not None:
                known[name] = at
        return cls({name: at - ordered_at for name, at in known.items()})

    def spans(self) -> dict[str, float]:
        """How long each part took, in order; a part whose end was not seen goes into the next one."""
        found, before = {}, 0.0
        for milestone, part in MILESTONES.items():
            if milestone in self.after_s:
                found[part] = self.after_s[milestone] - before
                before = self.after_s[milestone]
        return found
