"""Somebody has the broker's password: what forged messages do to the real services."""

from __future__ import annotations

import contextlib
import secrets
import uuid
from collections.abc import Iterator
from typing import Any

import oslo_messaging as messaging
import pytest
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server
from nova import rpc

from nova_trusted_clone.rpc import COMPUTE_TOPIC, CONDUCTOR_TOPIC, errors
from nova_trusted_clone.rpc.compute import ComputeAPI
from nova_trusted_clone.rpc.conductor import ConductorAPI
from tests.openstack.wire import conductor as conductor
from tests.openstack.wire import forger as forger
from tests.openstack.wire import transport as transport

GROUP = secrets.token_hex(16)
ATTEMPT = secrets.token_hex(16)
SERVER = str(uuid.uuid4())


pytestmark = pytest.mark.usefixtures("transport")


@contextlib.contextmanager
def nothing_changes(conductor: ConductorAPI, forger: Any) -> Iterator[None]:
    before = conductor.list(forger, {"limit": 1000})
    yield
    assert conductor.list(forger, {"limit": 1000}) == before


FORGED = {
    "claim": lambda api, who: api.claim(who, GROUP, SERVER, "host-a", "host-a"),
    "report": lambda api, who: api.report(who, ATTEMPT, {"phase": "provisional"}),
    "complete": lambda api, who: api.complete(who, ATTEMPT, {"format": "trusted-clone-evidence/1"}),
    "fail": lambda api, who: api.fail(who, GROUP, SERVER, ATTEMPT, "r", "c", retry=False),
    "register": lambda api, who: api.register(who, GROUP, [{"server": SERVER, "name": "x"}]),
    "cancel": lambda api, who: api.cancel(who, GROUP, "because"),
    "abort": lambda api, who: api.abort(who, SERVER, "because"),
}


@pytest.mark.parametrize("message", FORGED)
def test_what_nobody_asked_for_is_not_known(conductor, forger, message):
    with nothing_changes(conductor, forger), pytest.raises(errors.NotFound):
        FORGED[message](conductor, forger)


def raw(topic: str, method: str, who: Any, arguments: Any, at: str | None = None) -> Any:
    """Send what no client of ours would."""
    client = rpc.get_client(messaging.Target(topic=topic, version="1.0"))
    prepared = client.prepare(timeout=30, **({"server": at} if at else {}))
    return prepared.call(who, method, **arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "field"),
    [
        ("claim", {"group": "../..", "server": SERVER, "host": "h", "host_id": "h"}, "claim.group"),
        (
            "claim",
            {"group": GROUP, "server": SERVER, "host": "h", "host_id": "H!"},
            "claim.host_id",
        ),
        ("report", {"clone_id": ATTEMPT, "status": {"phase": "happy"}}, "report.status.phase"),
        ("report", {"clone_id": ATTEMPT, "status": []}, "report.status"),
        ("complete", {"clone_id": ATTEMPT, "evidence": "x" * 100}, "complete.evidence"),
        ("list", {"filters": {"limit": 10**9}}, "list.filters.limit"),
        ("get", {"clone_id": {"$ne": 1}}, "get.clone_id"),
        ("begin", {"request": {"count": 10_000}}, "begin.request"),
        ("abort", {"clone_id": SERVER}, "abort.reason"),
    ],
)
def test_malformed_messages_to_the_conductor_are_told_by_their_field(
    conductor, forger, method, arguments, field
):
    with nothing_changes(conductor, forger):
        reply = raw(CONDUCTOR_TOPIC, method, forger, arguments)
    assert reply["error"]["kind"] == "invalid"
    assert field in reply["error"]["text"]


@pytest.mark.parametrize("host", ["host-a", "host-b"])
def test_an_order_that_nobody_signed_makes_nothing_at_a_host(cloud, transport, forger, host):
    compute = ComputeAPI()
    for order in (b"no order", secrets.token_bytes(2000)):
        with pytest.raises(errors.CloneError) as caught:
            compute.prepare(forger, host, ATTEMPT, SERVER, order)
        assert not isinstance(caught.value, errors.Unavailable), caught.value
        with pytest.raises(errors.CloneError) as caught:
            compute.clone(forger, host, [(order, "host-b")])
        assert not isinstance(caught.value, errors.Unavailable), caught.value
    with pytest.raises(errors.NotFound):
        compute.status(forger, host, ATTEMPT)


def test_malformed_messages_to_a_compute_are_told_by_their_field(transport, forger):
    reply = raw(COMPUTE_TOPIC, "inspect", forger, {"server": "../../etc/passwd"}, "host-a")
    assert reply["error"]["kind"] == "invalid"
    assert "inspect.server" in reply["error"]["text"]


def test_a_complete_clone_cannot_be_unmade(
    cloud: Cloud, web: Server, conductor, forger, tenant_clone
):
    record = tenant_clone
    attempt = record["attempt_id"]
    with nothing_changes(conductor, forger):
        with pytest.raises(errors.Conflict):
            conductor.abort(forger, record["id"], "forged")
        with pytest.raises(errors.Conflict):
            conductor.fail(
                forger, record["group"], record["server_id"], attempt, "r", "c", retry=False
            )
        with pytest.raises(errors.Conflict):
            conductor.claim(forger, record["group"], record["server_id"], "host-a", "host-a")
        with pytest.raises(errors.Refused):
            conductor.complete(forger, attempt, {"format": "trusted-clone-evidence/1"})
        with pytest.raises(errors.Conflict):
            conductor.report(forger, attempt, {"phase": "failed", "reason": "forged"})


@pytest.fixture
def tenant_clone(
    cloud: Cloud, web: Server, conductor, forger, tmp_path
) -> Iterator[dict[str, Any]]:
    """The record of a clone that came to be."""
    from tests.openstack.tenant import Tenant

    words = ("server", "clone", web.id, "--name", "honest", "--wait", "-f", "json")
    Tenant(cloud, tmp_path).openstack(*words).ok()
    found = conductor.list(forger, {"source_server": web.id, "phase": "complete"})
    (record,) = [one for one in found if one["name"] == "honest"]
    yield record
    Server(web.cloud, web.client, web.admin, record["server_id"]).delete()
