"""Helper processes: started, found again, ended, and never mistaken for another."""

import dataclasses
import os
import subprocess
import sys

import pytest

from nova_trusted_clone.datapath import processes


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    """A module that makes ``ready`` and sleeps."""
    (tmp_path / "sleeper.py").write_text(
        "import sys, time, pathlib\npathlib.Path(sys.argv[2], 'ready').touch()\ntime.sleep(60)\n"
    )
    (tmp_path / "stillborn.py").write_text("raise SystemExit('no such luck')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = []
    yield started
    for identity in started:
        identity.end()


def test_a_helper_is_started_found_again_and_ended(tmp_path, sleeper):
    directory = tmp_path / "helper"
    identity = processes.start("sleeper", directory)
    sleeper.append(identity)
    processes.wait_for_path(directory / "ready", identity, 10)

    assert processes.find(directory) == identity
    identity.end()
    assert not identity.alive
    assert processes.find(directory) is None
    identity.end()  # once more does no harm


def test_a_helper_that_ends_at_once_is_reported_with_the_place_of_its_words(tmp_path, sleeper):
    directory = tmp_path / "helper"
    identity = processes.start("stillborn", directory)
    with pytest.raises(processes.ProcessFailed, match=r"output\.log"):
        processes.wait_for_path(directory / "ready", identity, 10)
    assert "no such luck" in (directory / "output.log").read_text()


def test_a_reused_pid_is_somebody_else(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        stale = dataclasses.replace(processes.ProcessId.of(other.pid), start_ticks=1)
        assert not stale.alive
        stale.end()
        assert other.poll() is None
    finally:
        other.communicate()


def test_a_zombie_has_ended(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with pytest.raises(processes.ProcessFailed):
        processes.ProcessId.of(child)
    os.waitpid(child, 0)


@pytest.mark.parametrize("raw", ["", "{}", '{"pid": "x", "start_ticks": 1}', "[]"])
def test_a_damaged_record_finds_nothing(tmp_path, raw):
    (tmp_path / processes.RECORD).write_text(raw)
    assert processes.find(tmp_path) is None
