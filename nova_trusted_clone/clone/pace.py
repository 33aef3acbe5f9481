"""How often to ask how far something is."""

from __future__ import annotations

import time
from collections.abc import Callable

# The end of what took a minute is noticed a second late.
SHARE = 1 / 50
LONGEST_S = 1.0


class Pace:
    """The pauses between questions: short at first, and longer the longer it takes.

    Each question is a connection and a thread on the side that is asked, which has something better to do: on a slow host
    questions at a steady 50 Hz took two fifths of the store's time.
    """

    def __init__(self, shortest_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """It begins to take its time now."""
        self._shortest_s = shortest_s
        self._now = now
        self._began = now()

    @property
    def pause_s(self) -> float:
        """How long to pause before the next question: a fiftieth of what it took until now, within limits."""
        return min(max((self._now() - self._began) * SHARE, self._shortest_s), LONGEST_S)
