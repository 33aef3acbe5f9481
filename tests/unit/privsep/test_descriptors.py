"""Descriptors reach the process that asked for them, and nobody else."""

from __future__ import annotations

import os
import pathlib
import socket

import pytest

from nova_trusted_clone.privsep import descriptors
from nova_trusted_clone.privsep.descriptors import HandOverFailed, Receiver


@pytest.fixture
def text(tmp_path: pathlib.Path) -> int:
    path = tmp_path / "text"
    path.write_text("of the guest")
    return os.open(path, os.O_RDONLY)


def test_what_is_sent_arrives_open_and_is_not_inherited(text: int) -> None:
    with Receiver() as receiver:
        descriptors.send(receiver.name, os.getpid(), [text, text])
        first, second = receiver.receive(2)
    assert os.pread(first, 100, 0) == os.pread(second, 100, 0) == b"of the guest"
    assert not os.get_inheritable(first)


def test_a_name_is_never_the_same() -> None:
    assert Receiver().name != Receiver().name


def test_nobody_but_the_asker_gets_them(text: int) -> None:
    """Another process may have taken the name; the kernel says whose it is."""
    with (
        Receiver() as receiver,
        pytest.raises(HandOverFailed, match=r"process \d+ listens, 1 expected"),
    ):
        descriptors.send(receiver.name, 1, [text])


def test_they_go_to_no_name_that_a_receiver_does_not_make(text: int) -> None:
    with pytest.raises(HandOverFailed, match="name"):
        descriptors.send("/run/somebody.sock", os.getpid(), [text])


def test_nobody_listens(text: int) -> None:
    with pytest.raises(HandOverFailed, match="nobody receives"):
        descriptors.send(Receiver().name, os.getpid(), [text])


def test_fewer_than_expected_are_refused(text: int) -> None:
    with Receiver() as receiver:
        descriptors.send(receiver.name, os.getpid(), [text])
        with pytest.raises(HandOverFailed, match="1 descriptors came, 3 expected"):
            receiver.receive(3)


def test_another_user_may_not_offer_any(text: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "peer", lambda _connection: (os.getpid(), 4711))
    with Receiver() as receiver:
        descriptors.send(receiver.name, os.getpid(), [text])
        with pytest.raises(HandOverFailed, match="user 4711 offers"):
            receiver.receive(1)


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "TIMEOUT_S", 0.05)
    with Receiver() as receiver, pytest.raises(HandOverFailed, match="no descriptor came"):
        receiver.receive(1)


def test_peer_is_what_the_kernel_says() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        assert descriptors.peer(left) == (os.getpid(), os.geteuid())
