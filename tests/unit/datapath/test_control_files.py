"""Requests that bring open descriptors: of what the helper may not open itself."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator

import pytest

from nova_trusted_clone.datapath import control
from nova_trusted_clone.datapath.control import ControlClient, FieldError, Operation


def read(files: tuple[int, ...] = ()) -> dict[str, object]:
    """The operation closes what it was given."""
    found = []
    for descriptor in files:
        assert not os.get_inheritable(descriptor)
        found.append(os.pread(descriptor, 100, 0).decode())
        os.close(descriptor)
    return {"text": found}


@pytest.fixture
def client(tmp_path: pathlib.Path) -> Iterator[ControlClient]:
    operations = {
        "two": Operation(read, files=2),
        "optional": Operation(read, files=1, files_optional=True),
        "none": Operation(read),
    }
    server = control.ControlServer(tmp_path / "control.sock", operations)
    server.start()
    yield ControlClient(tmp_path / "control.sock")
    server.close()


@pytest.fixture
def text(tmp_path: pathlib.Path) -> Iterator[int]:
    (tmp_path / "text").write_text("of the guest")
    descriptor = os.open(tmp_path / "text", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def open_files() -> int:
    return len(list(pathlib.Path("/proc/self/fd").iterdir()))


def test_an_operation_reads_what_came_with_the_request(client: ControlClient, text: int) -> None:
    assert client.call("two", [text, text]) == {"text": ["of the guest"] * 2}
    assert client.call("optional", [text]) == {"text": ["of the guest"]}
    assert client.call("optional") == {"text": []}


@pytest.mark.parametrize(
    ("operation", "count", "words"),
    [
        ("two", 0, "two: 0 descriptors came, 2 expected"),
        ("two", 1, "two: 1 descriptors came, 2 expected"),
        ("optional", 2, "optional: 2 descriptors came, 1 expected"),
        ("none", 1, "none: 1 descriptors came, 0 expected"),
    ],
)
def test_too_few_and_too_many_are_told_and_none_stays_open(
    client: ControlClient, text: int, operation: str, count: int, words: str
) -> None:
    before = open_files()
    with pytest.raises(control.ControlError, match=words) as caught:
        client.call(operation, [text] * count)
    assert caught.value.code == FieldError.code
    # The server's thread closes its connection a moment after the answer.
    deadline = time.monotonic() + 5
    while open_files() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
