"""A helper that was killed is told from one that does not answer."""

from __future__ import annotations

import os
import pathlib
import signal
import threading

import pytest

from nova_trusted_clone.clone.helpers import Helper
from nova_trusted_clone.datapath import processes


@pytest.fixture
def sleeper(tmp_path: pathlib.Path) -> processes.ProcessId:
    """A process that answers nothing, recorded as the helper of a directory."""
    return processes.start("this.module.never.is", tmp_path / "gone")


def test_a_helper_that_has_ended_says_so(
    tmp_path: pathlib.Path, sleeper: processes.ProcessId
) -> None:
    sleeper.wait(10)
    with pytest.raises(processes.ProcessFailed, match="the exporter process ended"):
        Helper("a.package.exporter", tmp_path / "gone").call("status")


def test_a_helper_that_is_dying_is_waited_for(tmp_path: pathlib.Path) -> None:
    pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    directory = tmp_path / "dying"
    directory.mkdir()
    processes._write_record(directory, processes.ProcessId.of(pid))
    threading.Timer(0.2, lambda: os.kill(pid, signal.SIGKILL)).start()
    with pytest.raises(processes.ProcessFailed, match="the exporter process ended"):
        Helper("a.package.exporter", directory).call("status")
