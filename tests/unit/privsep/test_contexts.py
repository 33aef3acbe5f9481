"""Each daemon's capabilities, and the command that starts it."""

from __future__ import annotations

import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from oslo_config import cfg
from oslo_privsep import capabilities, priv_context
from oslo_rootwrap import wrapper

from nova_trusted_clone.hypervisor.qemu import access
from nova_trusted_clone.privsep import daemons, guest_memory_pctxt, mounts_pctxt

CONTEXTS = (guest_memory_pctxt, mounts_pctxt)
BIN = pathlib.Path(sys.executable).parent


@pytest.fixture
def helper() -> Iterator[None]:
    """A test's choice of helper is forgotten after it."""
    yield
    access.use(None)
    for context in CONTEXTS:
        cfg.CONF.clear_override("helper_command", context.cfg_section)
        context.stop()


def test_each_has_the_least_capabilities() -> None:
    held = [set(context.conf.capabilities) for context in CONTEXTS]
    assert held == [
        {
            capabilities.CAP_SYS_PTRACE,
            capabilities.CAP_DAC_READ_SEARCH,
            capabilities.CAP_SYS_NICE,
        },
        {capabilities.CAP_SYS_ADMIN},
    ]


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.cfg_section)
def test_rootwrap_starts_them_without_a_filter_of_ours(context: priv_context.PrivContext) -> None:
    """oslo.rootwrap knows privsep-helper by itself."""
    command = context.helper_command("/tmp/tmpab12/privsep.sock")
    wanted = command[command.index("privsep-helper") :]
    assert any(one.match(wanted) for one in wrapper.load_filters([]))


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.cfg_section)
def test_the_daemon_finds_its_context_again_by_name(context: priv_context.PrivContext) -> None:
    """In a new interpreter, as privsep-helper does it: with no module of ours imported yet."""
    find = "import sys; from oslo_utils import importutils; print(importutils.import_class(sys.argv[1]))"
    found = subprocess.run(
        [sys.executable, "-c", find, str(context.pypath)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert context.cfg_section in found.stdout


@pytest.mark.usefixtures("helper")
def test_a_guard_starts_its_daemon_by_its_services_command() -> None:
    command = "sudo nova-rootwrap /etc/nova/rootwrap.conf privsep-helper"
    daemons.use_helper(command)
    assert daemons.helper_command(guest_memory_pctxt) == shlex.split(command)


@pytest.mark.usefixtures("helper")
@pytest.mark.parametrize("command", ["/bin/false", "/nowhere/sudo privsep-helper"])
def test_what_cannot_be_started_is_told_with_its_command(command: str) -> None:
    daemons.use_helper(command)
    with pytest.raises(daemons.PrivilegeError, match=command):
        daemons.start()
