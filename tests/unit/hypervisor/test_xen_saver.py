"""The saver: it saves, waits for the word, and whatever happens the domain goes on."""

from __future__ import annotations

import io
import json
import os
import time

import pytest

from nova_trusted_clone.hypervisor.xen import saver
from nova_trusted_clone.hypervisor.xen.records import PAGE
from nova_trusted_clone.hypervisor.xen.state import DomainState
from tests.unit.hypervisor import test_xen_stream as streams

MEMORY_BYTES = streams.MEMORY_PAGES * PAGE


class Libxl:
    """What ``_xl`` does, on a domain that is a stream."""

    def __init__(self, stream: bytes, live: bool = True, error: str = "") -> None:
        self.stream = stream
        self.live = live
        self.error = error
        self.suspended = False
        self.calls: list[str] = []

    def open(self) -> None:
        self.calls.append("open")

    def logs_dirty(self, domain: int) -> bool:
        return self.live

    def suspend(self, domain: int, file: int, live: bool) -> float:
        stopped_at = time.monotonic()
        self.calls.append(f"suspend {'live' if live else 'cold'}")
        self.suspended = True
        view = memoryview(self.stream)
        try:
            while view:
                view = view[os.write(file, view[: 1 << 16]) :]
        except BrokenPipeError as error:
            raise OSError("suspend: libxl error -3") from error
        if self.error:
            raise OSError(self.error)
        return stopped_at

    def is_suspended(self, domain: int) -> bool:
        return self.suspended

    def resume(self, domain: int) -> None:
        self.calls.append("resume")
        self.suspended = False


class Caller:
    """The other end of the lines."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.events: list[dict[str, object]] = []

    def tell(self, event: str, **facts: object) -> None:
        self.events.append({"event": event, **facts})

    def hear(self, word: str) -> bool:
        return bool(self.words) and self.words.pop(0) == word


@pytest.fixture
def libxl(monkeypatch):
    def use(**wishes) -> Libxl:
        made = Libxl(**{"stream": streams.raw_stream(streams.pvh()), **wishes})
        monkeypatch.setattr(saver, "library", lambda: made)
        return made

    return use


def test_a_domain_is_saved_while_it_runs_and_goes_on(libxl, tmp_path):
    xl, caller = libxl(), Caller("save", "resume")
    saver.save(7, tmp_path, MEMORY_BYTES, caller)
    assert [one["event"] for one in caller.events] == ["ready", "suspended", "resumed", "saved"]
    assert caller.events[0]["live"] is True
    assert xl.calls == ["open", "suspend live", "resume"]
    assert DomainState.decode((tmp_path / "device-state").read_bytes()) == streams.pvh()
    assert (tmp_path / "memory").read_bytes()[9 * PAGE : 10 * PAGE] == streams.page(9)
    assert caller.events[3]["ranges"] == [["0x0", 0, 700], ["0xfeff8", 0xFEFF8, 8]]
    for name in ("memory", "device-state"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_pause_whose_beginning_nobody_saw_is_told_too_long(libxl, tmp_path, monkeypatch):
    xl, caller = libxl(), Caller("save", "resume")
    suspend = xl.suspend
    monkeypatch.setattr(xl, "suspend", lambda *wanted: [suspend(*wanted), None][1])
    saver.save(7, tmp_path, MEMORY_BYTES, caller)
    told = caller.events[2]
    assert told["copy_s"] == 0
    assert told["pause_s"] == pytest.approx(told["final_s"] + told["resume_s"])


def test_where_xen_cannot_log_it_stands_still_for_the_copy(libxl, tmp_path):
    xl, caller = libxl(live=False), Caller("save", "resume")
    saver.save(7, tmp_path, MEMORY_BYTES, caller)
    assert caller.events[0]["live"] is False
    assert xl.calls == ["open", "suspend cold", "resume"]


def test_a_domain_that_ended_while_it_was_saved_is_told_as_gone(libxl, tmp_path, monkeypatch):
    xl, caller = (
        libxl(error="suspend: before the domain had suspended: No such process"),
        Caller("save"),
    )

    def none(domain: int) -> bool:
        raise ProcessLookupError(f"there is no domain {domain}")

    monkeypatch.setattr(xl, "is_suspended", none)
    with pytest.raises(ProcessLookupError, match="domain 7 ended while it was saved"):
        saver.save(7, tmp_path, MEMORY_BYTES, caller)


def test_a_caller_that_goes_away_before_it_said_anything_changes_nothing(libxl, tmp_path):
    xl = libxl()
    saver.save(7, tmp_path, MEMORY_BYTES, Caller())
    assert xl.calls == ["open"]


def test_a_caller_that_goes_away_in_the_pause_leaves_a_domain_that_runs(libxl, tmp_path):
    xl = libxl()
    saver.save(7, tmp_path, MEMORY_BYTES, Caller("save"))
    assert xl.calls[-1] == "resume" and not xl.suspended


def test_a_stream_that_is_none_ends_the_save_and_the_domain_goes_on(libxl, tmp_path):
    xl = libxl(stream=b"x" * (4 << 20))
    with pytest.raises(saver.SaveFailed, match="ident"):
        saver.save(7, tmp_path, MEMORY_BYTES, Caller("save", "resume"))
    assert xl.calls[-1] == "resume" and not xl.suspended


def test_what_libxl_says_is_the_reason(libxl, tmp_path):
    xl = libxl(error="suspend: libxl error -3")
    with pytest.raises(saver.SaveFailed, match="libxl error -3"):
        saver.save(7, tmp_path, MEMORY_BYTES, Caller("save", "resume"))
    assert not xl.suspended


def test_a_full_disk_is_the_reason(libxl, tmp_path, monkeypatch):
    xl = libxl()

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(saver.SaveFailed, match="No space left"):
        saver.save(7, tmp_path, MEMORY_BYTES, Caller("save", "resume"))
    assert not xl.suspended


def test_a_domain_that_suspends_after_its_saver_was_killed_is_found(libxl, monkeypatch):
    xl = libxl()
    looks = iter([False, False, True])
    monkeypatch.setattr(xl, "is_suspended", lambda _domain: next(looks))
    saver.rescue(xl, 7)
    assert xl.calls == ["resume"]


def test_a_domain_that_runs_is_left_running(libxl, monkeypatch):
    monkeypatch.setattr(saver, "LATE_S", 0.05)
    xl = libxl()
    saver.rescue(xl, 7)
    assert xl.calls == []


def test_lines_are_json(capsys, monkeypatch):
    talk = saver.Conversation()
    talk.tell("resumed", pause_s=0.5)
    assert json.loads(capsys.readouterr().out) == {"event": "resumed", "pause_s": 0.5}
    monkeypatch.setattr("sys.stdin", io.StringIO("save\n"))
    assert talk.hear("save") is True
    assert talk.hear("resume") is False
