"""Who has the rights is the operator's choice, and what is missing is told at the service's start."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from oslo_config import cfg

from nova_trusted_clone.assembly import wiring
from nova_trusted_clone.datapath import mounts
from nova_trusted_clone.hypervisor.qemu import access
from nova_trusted_clone.privsep import daemons, guest_memory_pctxt


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    access.use(None)
    mounts.use(None)
    cfg.CONF.clear_override("helper_command", guest_memory_pctxt.cfg_section)


def test_root_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    wiring._use_privileges("auto")
    assert access.daemon() is None


def test_direct_is_direct_for_whoever_has_the_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    wiring._use_privileges("direct")
    assert access.daemon() is None


def test_anybody_else_asks_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(daemons, "start", lambda: started.append(True))
    wiring._use_privileges("auto")
    assert started
    assert isinstance(access.daemon(), daemons.GuestMemory)


def test_daemons_that_cannot_be_started_are_the_operators_to_mend() -> None:
    daemons.use_helper("/bin/false")
    with pytest.raises(wiring.ConfigError, match=r"privileged_access: privsep: /bin/false"):
        wiring._use_privileges("privsep")
