"""Sockets have short paths whatever the lab's directory, and two labs never share one."""

from __future__ import annotations

import pathlib

import pytest
from labkit.lab import Lab
from labkit.paths import CHECKOUT, LabPaths

UNIX_PATH_BYTES = 108


def test_socket_paths_fit_below_a_deep_directory(tmp_path: pathlib.Path) -> None:
    lab = Lab.at(LabPaths(tmp_path / ("deep" * 40), tmp_path))
    # The deepest that the agent makes: an exporter's drain socket.
    deepest = lab.source.state_path / "freezes" / ("0" * 32) / "exporter" / "capture.sock"
    assert len(bytes(deepest)) < UNIX_PATH_BYTES


def test_two_labs_share_nothing(tmp_path: pathlib.Path) -> None:
    one, two = (Lab.at(LabPaths(tmp_path / name, tmp_path)) for name in ("one", "two"))
    assert one.paths.run != two.paths.run
    assert one.source.marker not in (two.source.marker, one.destination.marker)


def test_the_environment_names_the_place(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAB_DIR", raising=False)
    monkeypatch.delenv("LAB_CACHE", raising=False)
    assert LabPaths.from_environment().root == CHECKOUT / ".lab"
    monkeypatch.setenv("LAB_DIR", str(tmp_path / "mine"))
    found = LabPaths.from_environment()
    assert (found.root, found.cache) == (tmp_path / "mine", CHECKOUT / ".lab" / "cache")
