"""Messages that must be heard: kept until they are, over restarts, in their order."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from nova_trusted_clone.virt import outbox
from nova_trusted_clone.virt.outbox import Later, Outbox


class Other:
    """The other side: away at times, and some messages it chokes on."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.away = False

    def deliver(self, message: Mapping[str, Any]) -> None:
        if self.away:
            raise Later("nobody answers")
        if message["n"] == "bad":
            raise ValueError("cannot be read")
        self.heard.append(message["n"])


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Other:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_S", 0.02)
    return Other()


@pytest.fixture
def box(other: Other, tmp_path: pathlib.Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox", other.deliver)
    box.start()
    yield box
    box.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_message_is_delivered_and_gone(box: Outbox, other: Other, tmp_path: pathlib.Path) -> None:
    box.put("a", {"n": 1})
    wait_until(lambda: other.heard == [1])
    wait_until(lambda: not any((tmp_path / "outbox").iterdir()))


def test_while_the_other_side_is_away_messages_wait_in_their_order(
    box: Outbox, other: Other
) -> None:
    other.away = True
    for n in range(5):
        box.put(f"m{n}", {"n": n})
    time.sleep(0.1)
    assert other.heard == []
    other.away = False
    wait_until(lambda: other.heard == [0, 1, 2, 3, 4])


def test_a_message_that_cannot_be_delivered_stands_in_nobodys_way(
    box: Outbox, other: Other, tmp_path: pathlib.Path
) -> None:
    other.away = True
    box.put("bad", {"n": "bad"})
    box.put("good", {"n": 2})
    (tmp_path / "outbox" / "00000000000000000001.broken.json").write_text("{")
    other.away = False
    wait_until(lambda: other.heard == [2])
    wait_until(lambda: not any((tmp_path / "outbox").iterdir()))


def test_what_a_former_service_left_is_delivered(other: Other, tmp_path: pathlib.Path) -> None:
    Outbox(tmp_path / "outbox", other.deliver).put("a", {"n": 7})
    assert other.heard == []
    again = Outbox(tmp_path / "outbox", other.deliver)
    again.start()
    wait_until(lambda: other.heard == [7])
    again.close()


def test_one_name_is_one_message(other: Other, tmp_path: pathlib.Path) -> None:
    box = Outbox(tmp_path / "outbox", other.deliver)
    box.put("a", {"n": 1})
    box.put("a", {"n": 2})
    box.start()
    wait_until(lambda: other.heard == [1])
    box.close()


def test_messages_from_many_threads_all_arrive(box: Outbox, other: Other) -> None:
    threads = [
        threading.Thread(target=box.put, args=(f"t{n}", {"n": n}), daemon=True) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: sorted(other.heard) == list(range(20)))
