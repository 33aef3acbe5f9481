"""A connection stays open when the process that used it is killed, until its other end closes it: with real processes."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from nova_trusted_clone.hypervisor.qemu import keeper

LIMIT_S = 10.0


def until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class User:
    """A process with a keeper and a connection that it had kept."""

    def __init__(self, path: pathlib.Path, *, kept: bool = True) -> None:
        told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                made = keeper.start()
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(path))
                if kept:
                    made.keep(connection)
                os.write(tell, f"{made.pid}\n".encode())
                signal.pause()
            finally:
                os._exit(1)
        os.close(tell)
        with os.fdopen(told) as lines:
            self.keeper = int(lines.readline())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def listening(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    """QEMU's end."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "nbd"))
        made.listen()
        made.settimeout(LIMIT_S)
        yield made


def test_a_killed_user_does_not_close_what_is_kept(listening: socket.socket, tmp_path) -> None:
    user = User(tmp_path / "nbd")
    server, _ = listening.accept()
    server.settimeout(0.3)
    user.kill()
    with pytest.raises(TimeoutError):
        server.recv(1)
    assert alive(user.keeper)
    server.close()
    until("the keeper's end", lambda: not alive(user.keeper))


def test_without_a_keeper_it_would(listening: socket.socket, tmp_path) -> None:
    user = User(tmp_path / "nbd", kept=False)
    server, _ = listening.accept()
    server.settimeout(LIMIT_S)
    user.kill()
    assert server.recv(1) == b""
    until("the keeper's end", lambda: not alive(user.keeper))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_ends_its_user_in_good_order_does_not_end_it(
    listening: socket.socket, tmp_path, number: signal.Signals
) -> None:
    user = User(tmp_path / "nbd")
    server, _ = listening.accept()
    os.kill(user.keeper, number)
    user.kill()
    server.settimeout(0.3)
    with pytest.raises(TimeoutError):
        server.recv(1)
    # A QEMU that shuts the connection down, as it does when an export is taken off, has let go as well.
    server.shutdown(socket.SHUT_RDWR)
    until("the keeper's end", lambda: not alive(user.keeper))


def test_a_keeper_that_is_gone_is_told_and_costs_nothing_else(
    listening: socket.socket, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "nbd"))
        keeper.Keeper(ours, 0).keep(connection)
        connection.sendall(b"x")
    assert "is not kept open" in caplog.text
    ours.close()
