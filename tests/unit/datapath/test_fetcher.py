"""How long a line to the exporter may say nothing."""

from __future__ import annotations

import pytest

from nova_trusted_clone.datapath.fetcher import FetchSettings
from nova_trusted_clone.datapath.serving import WAIT_NOTICE_S


@pytest.mark.parametrize("network_limit_s", [1.0, 60.0, 300.0])
def test_a_silent_line_is_tried_again_before_the_network_is_given_up(network_limit_s):
    """And never so soon that a source which says that it is busy is taken for a dead line."""
    silence_s = FetchSettings(network_limit_s=network_limit_s).silence_limit_s
    assert silence_s >= 2 * WAIT_NOTICE_S
    assert silence_s < network_limit_s or network_limit_s < 2.5 * WAIT_NOTICE_S


@pytest.mark.parametrize(("processors", "lines"), [({0}, 1), ({0, 1}, 3), (set(range(64)), 3)])
def test_a_single_processor_has_a_single_line_for_everything_in_order(
    monkeypatch, processors, lines
):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: processors)
    assert FetchSettings().bulk_lines == lines


def test_a_slow_host_is_given_time():
    fast, slow = FetchSettings(network_limit_s=60.0), FetchSettings(network_limit_s=300.0)
    assert fast.silence_limit_s == 10.0
    assert slow.silence_limit_s == 50.0
