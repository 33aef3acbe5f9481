"""What is written down before it is done is whole, and what is there is read with care."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_trusted_clone.hypervisor import journals
from nova_trusted_clone.hypervisor.base import HypervisorError


def files_of(raw: dict[str, Any]) -> list[str]:
    return [str(name) for name in raw["files"]]


@pytest.fixture
def journal(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "restore.json"


def test_what_is_written_is_read(journal: pathlib.Path) -> None:
    assert journals.read(journal, files_of) is None
    journals.write(journal, {"files": ["a"]})
    journals.write(journal, {"files": ["a", "b"]})
    assert journals.read(journal, files_of) == ["a", "b"]
    assert list(journal.parent.iterdir()) == [journal]


def test_a_write_that_fails_leaves_the_former_record(
    journal: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals.write(journal, {"files": ["a"]})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space"):
        journals.write(journal, {"files": ["b"]})
    assert journals.read(journal, files_of) == ["a"]


@pytest.mark.parametrize(
    "raw",
    ['{"files": ["a"', "[]", '{"names": []}', '{"files": 3}', "\xff", "[" * 100_000],
    ids=["torn", "list", "other", "number", "no-text", "deep"],
)
def test_what_is_no_journal_is_told_by_its_name(journal: pathlib.Path, raw: str) -> None:
    journal.write_bytes(raw.encode("latin-1"))
    with pytest.raises(HypervisorError, match=r"restore\.json: not a journal"):
        journals.read(journal, files_of)


def test_a_journal_without_end_is_not_read_to_its_end(
    journal: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MAX_JOURNAL_BYTES", 100)
    journals.write(journal, {"files": ["a" * 100]})
    with pytest.raises(HypervisorError, match="more than 100 bytes"):
        journals.read(journal, files_of)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_an_error(tmp_path_factory: Any, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("journal") / "restore.json"
    path.write_bytes(raw)
    try:
        assert isinstance(journals.read(path, files_of), list)
    except HypervisorError as error:
        assert str(path) in str(error)
