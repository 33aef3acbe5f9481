"""Keeps a few things ready that take long to make, by a background thread.

Making a vTPM takes 0.6 s and more; a clone should not wait for it. The pool is bounded, refills
itself, and an item that went bad while it waited is replaced.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_RETRY_S = 30.0
"""After a failed making the thread rests: a missing swtpm would else be started in a busy loop."""


class WarmPool(Generic[T]):
    """Up to ``size`` things ready to be taken. Size 0: each is made when it is asked for."""

    def __init__(
        self,
        make: Callable[[], T],
        discard: Callable[[T], None],
        is_good: Callable[[T], bool],
        size: int,
    ) -> None:
        """:param make: makes one; may take long, may raise; called in several threads"""
        self._make, self._discard, self._is_good = make, discard, is_good
        self._size = size
        self._ready: collections.deque[T] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self.last_error: Exception | None = None
        self._thread = threading.Thread(target=self._refill, name="vtpm-pool", daemon=True)
        if size:
            self._thread.start()

    def take(self) -> T:
        """Return one that is ready, else make one now; raises what making raises."""
        while True:
            with self._changed:
                if self._closed:
                    raise RuntimeError("the pool is closed")
                item = self._ready.popleft() if self._ready else None
                self._changed.notify_all()
            if item is None:
                return self._make()
            if self._is_good(item):
                return item
            self._discard(item)

    @property
    def ready(self) -> int:
        """How many are ready."""
        with self._changed:
            return len(self._ready)

    def close(self) -> None:
        """Stop refilling and discard what is ready; waits for the one being made."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._size:
            self._thread.join()
        while self._ready:
            self._discard(self._ready.popleft())

    def _refill(self) -> None:
        while self._await_room():
            try:
                item = self._make()
            # Whatever went wrong here is met, and reported, by the next take() that makes one
            # itself.
            except Exception as error:  # noqa: BLE001
                self.last_error = error
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, _RETRY_S)
                continue
            with self._changed:
                self._ready.append(item)

    def _await_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._size)
            return not self._closed
