"""A clone's config drive: its source's until it starts anew, then its own, or still the old one if that cannot be made."""

from __future__ import annotations

import json
import pathlib
import types
from typing import Any

import pytest
from nova.virt.libvirt import utils as libvirt_utils

from nova_trusted_clone.virt import configdrive, servers

OLD, NEW = b"the source's", b"the clone's"


@pytest.fixture
def instance(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clone that still has its source's drive."""
    monkeypatch.setattr(libvirt_utils, "get_instance_path", lambda _instance: str(tmp_path))
    (tmp_path / configdrive.NAME).write_bytes(OLD)
    saved: list[dict[str, str]] = []
    made = types.SimpleNamespace(
        system_metadata={servers.CONFIG_DRIVE: "source"}, uuid="u", saved=saved
    )
    made.save = lambda: saved.append(dict(made.system_metadata))
    return made


def test_it_is_made_anew_once(
    instance: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No domain is defined at that time: nothing is asked of libvirt."""
    monkeypatch.setattr(
        configdrive, "make", lambda _instance, _network, drive: drive.write_bytes(NEW)
    )
    configdrive.renew(instance, [])
    drive = tmp_path / configdrive.NAME
    assert drive.read_bytes() == NEW
    assert json.loads((tmp_path / "disk.info").read_text()) == {str(drive): "raw"}
    assert instance.saved == [{}]
    monkeypatch.setattr(configdrive, "make", lambda *_: pytest.fail("it is its own already"))
    configdrive.renew(instance, [])


def test_one_that_cannot_be_made_leaves_the_old(
    instance: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(configdrive, "make", fails)
    configdrive.renew(instance, [])
    assert (tmp_path / configdrive.NAME).read_bytes() == OLD
    assert instance.system_metadata == {servers.CONFIG_DRIVE: "source"}
