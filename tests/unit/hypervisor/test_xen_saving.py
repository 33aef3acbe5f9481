"""The saver's process as a freeze sees it: its lines, its silence, its end."""

from __future__ import annotations

import pytest

from nova_trusted_clone.hypervisor.base import FreezeFailed, HypervisorError
from nova_trusted_clone.hypervisor.xen import saving
from nova_trusted_clone.hypervisor.xen.saving import Saver

READY = '{"event": "ready", "live": true}'
LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setattr(saving, "MODULE", "tests.unit.hypervisor.saver_double")


def test_lines_go_both_ways(tmp_path):
    with Saver(f"{READY}|hear", log=tmp_path / "log") as process:
        assert process.await_event("ready", LIMIT_S)["live"] is True
        process.say("save")
        assert process.await_event("heard", LIMIT_S)["word"] == "save"


def test_its_own_reason_is_the_reason(tmp_path):
    told = '{"event": "failed", "reason": "libxl error -3"}'
    with (
        Saver(told, log=tmp_path / "log") as process,
        pytest.raises(FreezeFailed, match="libxl error -3"),
    ):
        process.await_event("ready", LIMIT_S)


@pytest.mark.parametrize("line", ["not JSON", "[1]", '"ready"'])
def test_a_line_that_is_none(tmp_path, line):
    with Saver(line, log=tmp_path / "log") as process, pytest.raises(FreezeFailed):
        process.await_event("ready", LIMIT_S)


def test_a_saver_that_ends_is_told(tmp_path):
    with (
        Saver("end", log=tmp_path / "log") as process,
        pytest.raises(FreezeFailed, match="ended before it said 'ready'"),
    ):
        process.await_event("ready", LIMIT_S)


def test_a_saver_that_is_silent_is_not_waited_for_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "RESUME_LIMIT_S", 0.1)
    with (
        Saver("hang", log=tmp_path / "log") as process,
        pytest.raises(FreezeFailed, match="in time"),
    ):
        process.await_event("ready", 0.1)
    assert not process.identity.alive()


def test_a_domain_that_is_gone_need_not_be_resumed(tmp_path, monkeypatch):
    answers = {"gone": "true", "stuck": "false"}
    monkeypatch.setattr(
        saving,
        "Saver",
        lambda _command, which, log: Saver(
            f'{{"event": "failed", "reason": "because", "gone": {answers[which]}}}', log=log
        ),
    )
    saving.let_run("gone", tmp_path / "log")
    with pytest.raises(HypervisorError, match="may stand still: because"):
        saving.let_run("stuck", tmp_path / "log")
