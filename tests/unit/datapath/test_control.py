"""The control channel: requests answered, bad ones told why, others kept out."""

from __future__ import annotations

import os
import pathlib
import socket
import stat
import struct
from collections.abc import Iterator

import pytest

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.datapath import control


def fail() -> None:
    raise MalformedInput("regions[3]: name")


@pytest.fixture
def path(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    # Deeper than a unix socket's 108 bytes.
    found = tmp_path / ("d" * 100) / "control.sock"
    server = control.ControlServer(
        found,
        {
            "add": control.Operation(
                lambda a, b=1: {"sum": a + b},
                {"a": control.NUMBER, "b": control.optional(control.NUMBER)},
            ),
            "nothing": control.Operation(lambda: None),
            "fail": control.Operation(fail),
        },
    )
    server.start()
    yield found
    server.close()
    assert not found.exists()


def test_an_operation_is_answered(path: pathlib.Path) -> None:
    client = control.ControlClient(path)
    assert client.call("add", a=1, b=2) == {"sum": 3}
    assert client.call("add", a=1) == {"sum": 2}
    assert client.call("nothing") == {}


@pytest.mark.parametrize(
    ("operation", "arguments", "words"),
    [
        ("add", {}, "a: is missing"),
        ("add", {"a": "1"}, "a: expected a whole number"),
        ("add", {"a": True}, "a: expected a whole number"),
        ("add", {"a": 1, "c": 1}, "c: there is no such field"),
        ("sub", {}, "there is no 'sub'; known: add, nothing, fail"),
        ("fail", {}, r"regions\[3\]: name"),
    ],
)
def test_a_bad_request_is_told_why(
    path: pathlib.Path, operation: str, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(control.ControlError, match=words):
        control.ControlClient(path).call(operation, **arguments)


def test_an_errors_code_comes_through(path: pathlib.Path) -> None:
    with pytest.raises(control.ControlError) as caught:
        control.ControlClient(path).call("fail")
    assert caught.value.code == "trusted-clone.malformed"


@pytest.mark.parametrize("raw", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1{", b"\0\0\0\2[]"])
def test_what_is_no_request_is_answered_and_the_server_goes_on(
    path: pathlib.Path, raw: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        with control._short_path(path) as name:
            connection.connect(name)
        connection.settimeout(5)
        connection.sendall(raw)
        (length,) = struct.unpack(">I", connection.recv(4))
        assert b"error" in connection.recv(length)
    assert control.ControlClient(path).call("nothing") == {}


def test_only_the_owner_enters_the_directory(path: pathlib.Path) -> None:
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent.stat().st_uid == os.geteuid()


def test_a_helper_that_is_gone_is_an_os_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError):
        control.ControlClient(tmp_path / "control.sock").call("nothing")
