"""A process is ended by its pid and start time together, and by nothing less."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys

import pytest
from labkit import process
from labkit.errors import CommandFailed
from labkit.process import Process

STUBBORN = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"


def test_a_program_is_started_recorded_found_and_ended(tmp_path: pathlib.Path) -> None:
    running = process.start(["sleep", "60"], tmp_path / "log")
    running.save(tmp_path / "record")
    found = Process.load(tmp_path / "record")
    assert found == running and running.alive
    running.end()
    assert not running.alive
    running.end()


def test_another_process_with_the_same_pid_is_left_alone(tmp_path: pathlib.Path) -> None:
    running = process.start(["sleep", "60"], tmp_path / "log")
    stranger = dataclasses.replace(running, started=running.started - 1)
    assert not stranger.alive
    stranger.end()
    assert running.alive
    running.end()


def test_a_program_that_ignores_sigterm_is_ended(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TERM_LIMIT_S", 0.2)
    log = tmp_path / "log"
    running = process.start([sys.executable, "-c", STUBBORN], log)
    assert process.wait_until(lambda: log.read_text() == "on\n", 10)
    running.end()
    assert not running.alive


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "started": 1}'])
def test_a_damaged_record_is_no_process(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert Process.load(tmp_path / "record") is None
    assert Process.load(tmp_path / "absent") is None


def test_a_failed_command_is_named_with_what_it_said() -> None:
    with pytest.raises(CommandFailed, match="ended with 3: no such thing"):
        process.run(["sh", "-c", "echo no such thing >&2; exit 3"])
    with pytest.raises(CommandFailed, match="is not installed"):
        process.run(["no-such-program-anywhere"])
    with pytest.raises(CommandFailed, match="did not end within"):
        process.run(["sleep", "5"], limit_s=0.05)
    assert process.run(["cat"], script="hello") == "hello"


def test_our_own_start_time_is_known() -> None:
    assert Process.of(os.getpid()).alive
    with pytest.raises(CommandFailed, match="has ended"):
        Process.of(2**22 + 1)
