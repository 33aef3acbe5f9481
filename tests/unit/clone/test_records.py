"""Records: whole or not at all, private, and never a path."""

import concurrent.futures
import stat

import pytest

from nova_trusted_clone.clone import records


def test_a_record_comes_back(tmp_path):
    records.write(tmp_path / "r.json", {"phase": "serving", "n": 3})
    assert records.read(tmp_path / "r.json") == {"phase": "serving", "n": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_record_is_private(tmp_path):
    records.write(tmp_path / "r.json", {})
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("raw", ["", "{", "[1]", '"text"', "\x00"])
def test_a_damaged_record_names_its_file(tmp_path, raw):
    (tmp_path / "r.json").write_text(raw)
    with pytest.raises(records.RecordError, match=r"r\.json"):
        records.read(tmp_path / "r.json")


def test_no_record_names_its_file(tmp_path):
    with pytest.raises(records.RecordError, match=r"missing\.json"):
        records.read(tmp_path / "missing.json")


@pytest.mark.parametrize(
    "value", ["", "../../etc/passwd", "0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n"]
)
def test_only_an_id_is_a_file_name(value):
    with pytest.raises(records.RecordError, match="clone"):
        records.require_hex_id(value, "clone")


def test_a_record_that_several_threads_write_is_always_one_of_theirs(tmp_path):
    path = tmp_path / "clone.json"

    def write_often(number):
        for _ in range(30):
            records.write(path, {"number": number})

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write_often, number) for number in range(4)]:
            done.result()

    assert records.read(path)["number"] in range(4)
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_that_cannot_be_written_leaves_nothing_and_the_former_one(tmp_path, monkeypatch):
    records.write(tmp_path / "r.json", {"n": 1})

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*r\.json"):
        records.write(tmp_path / "r.json", {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert records.read(tmp_path / "r.json") == {"n": 1}
