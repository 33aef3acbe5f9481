"""Counts bytes and tells their present rate."""

from __future__ import annotations

import threading
import time
from collections import deque

WINDOW_S = 3.0


class RateMeter:
    """A total, and the rate of the last seconds. Several threads add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def add(self, count: int) -> None:
        """Count ``count`` more."""
        now = time.monotonic()
        with self._lock:
            self._total += count
            # Ten marks a window are enough; one for each call would be thousands.
            if now - self._marks[-1][0] >= WINDOW_S / 10:
                self._marks.append((now, self._total))
            while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW_S:
                self._marks.popleft()

    @property
    def total(self) -> int:
        """All that was counted."""
        with self._lock:
            return self._total

    def per_second(self) -> float:
        """The rate over about the last three seconds."""
        now = time.monotonic()
        with self._lock:
            recent = [mark for mark in self._marks if now - mark[0] <= WINDOW_S]
            first = recent[0] if recent else self._marks[-1]
            return (self._total - first[1]) / max(now - first[0], 0.1)
