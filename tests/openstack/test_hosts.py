"""Hosts that must not have a clone: not enrolled, or with another firmware than the operator approved of.

The host that was named is refused and the server goes to ERROR, with the failed checks in the record. Where none was named
another host is tried.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from labkit.cloud.cloud import Cloud
from labkit.cloud.nodes import Compute
from labkit.cloud.servers import Server
from openstack.connection import Connection

from nova_trusted_clone.clone.registry import Registry
from tests.openstack import configured
from tests.openstack.clones import Clones
from tests.openstack.conftest import MakeServer
from tests.openstack.tenant import Tenant

Refusal = Callable[[Cloud, Compute], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="module")
def own(_server_maker: MakeServer, admin: Connection) -> Iterator[Server]:
    """A server of the administrator's, who may name hosts."""
    server = _server_maker("own", client=admin, ready=False)
    server.wait_for_status()
    server.wait_ready()
    yield server
    server.delete()


@pytest.fixture
def clones(cloud: Cloud, tmp_path: pathlib.Path, own: Server) -> Iterator[Clones]:
    """Its clones."""
    made = Clones(Tenant(cloud, tmp_path, user="admin"), own)
    yield made
    made.remove()


@pytest.fixture
def other_host(cloud: Cloud, own: Server) -> Compute:
    """The host that the source is not on; it has more room, and is chosen first."""
    (found,) = [host for host in cloud.computes if host != own.host]
    return found


@contextlib.contextmanager
def not_enrolled(cloud: Cloud, host: Compute) -> Iterator[None]:
    """The operator has taken the host from the register."""
    file = cloud.paths.hosts / "operator" / "hosts.json"
    former = file.read_bytes()
    Registry(file).remove(host.name)
    try:
        yield
    finally:
        file.write_bytes(former)


@contextlib.contextmanager
def other_firmware(cloud: Cloud, host: Compute) -> Iterator[None]:
    """The host's TPM has measured a firmware that nobody approved of; other than after a real boot, the guests live on."""
    configured.restart(
        cloud, [host], lambda: host.reboot(firmware="a firmware that nobody approved of")
    )
    try:
        yield
    finally:
        configured.restart(cloud, [host], host.reboot)


# Why, the record's code, words of its reason, and whether the host had begun: one that is not enrolled has no attempt.
REFUSALS = {
    "not enrolled": (not_enrolled, "trusted-clone.host.not-enrolled", "not enrolled", False),
    "other firmware": (
        other_firmware,
        "trusted-clone.host.refused",
        "trusted-clone.policy.pcr-",
        True,
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_no_clone_comes_to_a_host_that_is_refused(
    cloud: Cloud, clones: Clones, other_host: Compute, why: str
) -> None:
    refusal, code, words, begun = REFUSALS[why]
    with refusal(cloud, other_host):
        running = clones.begin("named", "--host", other_host.name)
        assert running.done().status == 1
        require_refused(clones.record("named"), code, words)
        clones.server("named").wait_for_status("ERROR")
        assert clones.made("free").host != other_host
        tried = clones.record("free", clones.source.admin)["attempts"]
        refused = [(one["host"], one["code"]) for one in tried[:-1]]
        assert refused == ([(other_host.name, code)] if begun else [])


def require_refused(record: dict[str, Any], code: str, words: str) -> None:
    assert record["phase"] == "failed"
    assert record["code"] == code
    assert words in record["reason"]
    assert record["pause_us"] is None, "the source was frozen"
