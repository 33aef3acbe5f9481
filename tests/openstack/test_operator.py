"""What the operator sees: who runs as whom, his commands on running services, and that nothing tells a secret."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from labkit.cloud import rights
from labkit.cloud.cloud import Cloud
from labkit.cloud.nodes import Compute
from labkit.cloud.servers import Server
from labkit.sandbox import inhabitants
from oslo_privsep import capabilities

from tests.openstack.conftest import MakeServer
from tests.openstack.tenant import Tenant

GUEST_MEMORY = (
    capabilities.CAP_SYS_PTRACE,
    capabilities.CAP_DAC_READ_SEARCH,
    capabilities.CAP_SYS_NICE,
)
MOUNTS = (capabilities.CAP_SYS_ADMIN,)


@pytest.fixture(autouse=True, scope="module")
def installed(cloud: Cloud) -> None:
    """These stories are of hosts as they are installed."""
    if not all(host.installed for host in cloud.computes):
        pytest.skip("the checkout cannot be read by other users, so the lab's hosts are all root's")


@pytest.fixture
def tenant(cloud: Cloud, tmp_path: pathlib.Path) -> Tenant:
    """Tenant demo."""
    return Tenant(cloud, tmp_path)


@pytest.fixture
def clone(tenant: Tenant, web: Server) -> Iterator[Server]:
    """A complete clone of ``web``."""
    words = ("server", "clone", web.id, "--name", "servant", "--wait", "-f", "json")
    (row,) = tenant.openstack(*words).ok().json()
    made = Server(web.cloud, web.client, web.admin, row["Server ID"])
    yield made
    made.delete()


class Program:
    """One process of a host, as the kernel has it."""

    def __init__(self, pid: int) -> None:
        place = pathlib.Path("/proc", str(pid))
        status = dict(
            line.split(":\t", 1)
            for line in (place / "status").read_text().splitlines()
            if ":\t" in line
        )
        self.words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        self.user = int(status["Uid"].split()[1])
        self.held = int(status["CapPrm"], 16) | int(status["CapAmb"], 16)

    def names(self, text: str) -> bool:
        """Whether a word of its command line ends so."""
        return any(word.endswith(text) for word in self.words)


def programs(host: Compute, text: str) -> list[Program]:
    """The host's processes one of whose words ends so."""
    found = []
    for one in inhabitants(host.marker):
        try:
            program = Program(one.pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if program.names(text):
            found.append(program)
    return found


def rights_of(host: Compute, text: str) -> set[tuple[int, int]]:
    """User and capabilities of those processes."""
    return {(one.user, one.held) for one in programs(host, text)}


def mask(numbers: tuple[int, ...]) -> int:
    return sum(1 << number for number in numbers)


def user_id(host: Compute, name: str) -> int:
    return int(host.run(["id", "-u", name]))


def test_a_clone_needs_no_root_but_two_daemons_with_the_least_rights(
    web: Server, clone: Server
) -> None:
    """nova-compute, stores and exporters are nova and may nothing special; QEMU and its TPM are yet others."""
    for host in (web.host, clone.host):
        assert rights_of(host, "bin/nova-compute") == {(rights.NOVA_ID, 0)}
        daemons = {
            "guest_memory_pctxt": {(0, mask(GUEST_MEMORY))},
            "mounts_pctxt": {(0, mask(MOUNTS))},
        }
        assert {name: rights_of(host, name) for name in daemons} == daemons
        assert rights_of(host, "bin/qemu-system-x86_64") == {(user_id(host, rights.QEMU), 0)}
    assert rights_of(clone.host, "nova_trusted_clone.cmd.store") == {(rights.NOVA_ID, 0)}
    guests_tpms = [one for one in programs(clone.host, "bin/swtpm") if one.user != 0]
    assert (user_id(clone.host, rights.TPM), 0) in {(one.user, one.held) for one in guests_tpms}
