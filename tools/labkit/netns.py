"""Doing something inside another network namespace, from this process.

A network namespace belongs to a thread (setns(2)), so a thread is made for it, or the calling one moves for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

CLONE_NEWNET = 0x40000000
LISTENING = "0A"  # linux/tcp_states.h, as /proc/net/tcp shows it
# Open namespaces that this process is not in while it is ``inside`` others, outermost first.
_left: list[int] = []
T = TypeVar("T")


def enter(pid: int) -> None:
    """Move the calling thread, and those that it will start, into the network namespace of ``pid``.

    :raises OSError: when the kernel does not let it
    """
    with pathlib.Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        _enter(namespace.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextlib.contextmanager
def inside(pid: int) -> Iterator[None]:
    """The calling thread in the network namespace of ``pid`` for a block of code; threads that it starts there stay there."""
    with pathlib.Path("/proc/thread-self/ns/net").open("rb") as own:
        enter(pid)
        _left.append(own.fileno())
        try:
            yield
        finally:
            _left.remove(own.fileno())
            _enter(own.fileno())


def call(pid: int, function: Callable[[], T]) -> T:
    """What ``function`` returns or raises, run in the network namespace of ``pid``."""
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            enter(pid)
            results.put((function(), None))
        except BaseException as error:  # noqa: BLE001  (raised again below, in the caller's thread)
            results.put((None, error))

    thread = threading.Thread(target=work, name=f"netns-{pid}", daemon=True)
    thread.start()
    result, error = results.get()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def listens(pid: int, port: int) -> bool:
    """Whether any program in the network namespace of ``pid`` takes TCP connections at ``port``."""
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def outside() -> list[str]:
    """The words before a command that is to run in this process's own network, while it is ``inside`` another."""
    return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{_left[0]}", "--"] if _left else []
