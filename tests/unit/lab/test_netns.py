"""Who listens in a network namespace is read from /proc."""

from __future__ import annotations

import os
import pathlib
import socket

import pytest
from labkit import netns


def test_a_listening_port_is_seen_and_one_that_is_only_bound_is_not() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        assert not netns.listens(os.getpid(), port)
        one.listen()
        assert netns.listens(os.getpid(), port)
    assert not netns.listens(os.getpid(), port)


@pytest.mark.skipif(os.geteuid() != 0, reason="setns(2) wants privileges")
def test_what_is_done_inside_brings_its_result_or_its_error() -> None:
    assert netns.call(os.getpid(), lambda: 7) == 7

    def fail() -> int:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        netns.call(os.getpid(), fail)


@pytest.mark.skipif(os.geteuid() != 0, reason="setns(2) wants privileges")
def test_the_thread_comes_back_even_after_an_error() -> None:
    before = pathlib.Path("/proc/thread-self/ns/net").readlink()
    with pytest.raises(KeyError), netns.inside(os.getpid()):
        raise KeyError("inside")
    assert pathlib.Path("/proc/thread-self/ns/net").readlink() == before
