"""Events of servers' lives never hold up who brings them."""

from __future__ import annotations

import queue
import threading

from nova_trusted_clone.virt.lifecycle import Lifecycle

LIMIT_S = 10.0


def test_who_brings_an_event_does_not_wait_until_it_is_told() -> None:
    broker_is_back = threading.Event()
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def tell(event: str) -> None:
        assert broker_is_back.wait(LIMIT_S)
        told.put(event)

    line = Lifecycle(tell)
    for event in ("paused", "resumed", "stopped"):
        line.take(event)
    assert told.empty()
    broker_is_back.set()
    assert [told.get(timeout=LIMIT_S) for _ in range(3)] == ["paused", "resumed", "stopped"]


def test_an_event_that_cannot_be_told_does_not_keep_the_next_one_back() -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def tell(event: str) -> None:
        if event == "unheard of":
            raise ValueError(event)
        told.put(event)

    line = Lifecycle(tell)
    line.take("unheard of")
    line.take("resumed")
    assert told.get(timeout=LIMIT_S) == "resumed"
