"""What the API refuses, asked of the running services: by name, at once, and nothing is made."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from labkit.cloud import database
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server
from openstack.connection import Connection

from tests.openstack import inventory

MISSING = "99999999-9999-4999-8999-999999999999"
SETTLE_S = 20.0
CELL = "nova_cell1"


def ask(client: Connection, server: str, **wish: Any) -> Any:
    """The reply to a request for clones."""
    return client.compute.post(
        f"/servers/{server}/action", json={"trustedClone": wish}, raise_exc=False
    )


def said(reply: Any) -> str:
    return str(next(iter(reply.json().values()))["message"])


@pytest.fixture
def refused(cloud: Cloud) -> Iterator[Callable[..., None]]:
    """A function that judges a reply; after the test the services have no more than before it."""
    before = set(inventory.of_databases(cloud))

    def judge(reply: Any, status: int, *words: str) -> None:
        assert reply.status_code == status, reply.text
        for word in words:
            assert word in said(reply)
        assert reply.headers["x-openstack-request-id"].startswith("req-")

    yield judge
    deadline = time.monotonic() + SETTLE_S
    while (made := set(inventory.of_databases(cloud)) - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not made


@pytest.fixture(scope="module")
def spare(_server_maker: Callable[..., Server]) -> Iterator[Server]:
    """A server that every request of this file is for: none makes anything. Some change Nova's records of it."""
    server = _server_maker("spare", ready=False)
    server.wait_for_status()
    yield server
    server.delete()


@contextlib.contextmanager
def changed(cloud: Cloud, change: str, back: str) -> Iterator[None]:
    """Nova's records changed, to what this cloud has no hardware or service for."""
    database.query(cloud.control, change, CELL)
    try:
        yield
    finally:
        database.query(cloud.control, back, CELL)


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ({"count": 0}, "count"),
        ({"count": -1}, "count"),
        ({"count": 10_000}, "count"),
        ({"name": "n" * 300}, "name"),
        ({"name": "n" * 255, "count": 2}, "name: found 255 characters, expected at most 253"),
        ({"nonce": "not hexadecimal"}, "nonce"),
        ({"nonce": "00"}, "nonce"),
        ({"vtpm": "copy"}, "vtpm"),
        ({"networks": [{"uuid": MISSING}]}, MISSING),
        ({"networks": [{"port": MISSING}]}, MISSING),
        ({"networks": []}, "networks: found 0, expected 1"),
        ({"availability_zone": "atlantis"}, "availability zone"),
        ({"imageRef": MISSING}, "imageRef"),
    ],
)
def test_a_wrong_request(refused, demo: Connection, spare: Server, wish, word):
    refused(ask(demo, spare.id, **wish), 400, word)


def test_a_missing_server(refused, demo: Connection):
    refused(ask(demo, MISSING), 404, MISSING)


def test_a_foreign_server(refused, other: Connection, spare: Server):
    refused(ask(other, spare.id), 404, spare.id)
    found = other.compute.get(f"/servers/{spare.id}/trusted-clones", raise_exc=False)
    assert found.status_code == 404


def test_an_administrators_foreign_server(refused, admin: Connection, spare: Server):
    refused(ask(admin, spare.id), 403, "trusted-clone:create")


def test_a_host_named_by_a_tenant(refused, demo: Connection, spare: Server):
    refused(ask(demo, spare.id, host="host-b"), 403, "trusted-clone:create:host")


def test_a_locked_server(refused, demo: Connection, spare: Server):
    demo.compute.lock_server(spare.id)
    try:
        refused(ask(demo, spare.id), 409, "is locked", "Unlock it first")
    finally:
        demo.compute.unlock_server(spare.id)


def test_a_volume_backed_server(refused, cloud: Cloud, demo: Connection, spare: Server):
    row = str(uuid.uuid4())
    insert = (
        "INSERT INTO block_device_mapping (uuid, instance_uuid, source_type, destination_type, device_name, boot_index, "
        f"volume_id, deleted) VALUES ('{row}', '{spare.id}', 'volume', 'volume', '/dev/vdx', 0, '{MISSING}', 0)"
    )
    with changed(cloud, insert, f"DELETE FROM block_device_mapping WHERE uuid = '{row}'"):
        refused(ask(demo, spare.id), 409, "cannot be cloned", f"boots from volume {MISSING}")


def test_a_server_with_pci_devices(refused, cloud: Cloud, demo: Connection, spare: Server):
    wanted = json.dumps(
        [
            {
                "count": 1,
                "spec": [{"vendor_id": "8086"}],
                "alias_name": "nic",
                "is_new": False,
                "numa_policy": None,
                "request_id": None,
                "requester_id": None,
            }
        ]
    )
    where = f"WHERE instance_uuid = '{spare.id}'"
    there = f"UPDATE instance_extra SET pci_requests = '{wanted}' {where}"
    with changed(cloud, there, f"UPDATE instance_extra SET pci_requests = '[]' {where}"):
        refused(ask(demo, spare.id), 409, "PCI devices")


def test_a_server_with_encrypted_memory(refused, cloud: Cloud, demo: Connection, spare: Server):
    key = "image_hw_mem_encryption"
    insert = (
        "INSERT INTO instance_system_metadata (instance_uuid, `key`, value, deleted) "
        f"VALUES ('{spare.id}', '{key}', 'True', 0)"
    )
    delete = f"DELETE FROM instance_system_metadata WHERE instance_uuid = '{spare.id}' AND `key` = '{key}'"
    with changed(cloud, insert, delete):
        refused(ask(demo, spare.id), 409, "encrypted against its host")


@pytest.fixture
def quota(admin: Connection, demo: Connection) -> Iterator[Callable[..., None]]:
    """Set quotas of demo's project for a test."""
    project = demo.current_project_id

    def limit(**limits: int) -> None:
        admin.compute.put(f"/os-quota-sets/{project}", json={"quota_set": limits})

    yield limit
    admin.compute.delete(f"/os-quota-sets/{project}")


def test_a_quota_that_ends_within_the_batch(refused, quota, demo: Connection, spare: Server):
    used = demo.compute.get("/limits").json()["limits"]["absolute"]["totalInstancesUsed"]
    quota(instances=used + 2)
    refused(ask(demo, spare.id, count=4), 403, "Quota exceeded", "Ask for fewer clones")


def test_no_host_is_eligible(refused, admin: Connection, demo: Connection, spare: Server):
    """Also those that could are full, or out of service."""
    hosts = [
        one for one in admin.compute.services(binary="nova-compute") if one.status == "enabled"
    ]
    assert hosts
    for one in hosts:
        admin.compute.disable_service(one)
    try:
        refused(ask(demo, spare.id), 409, "No valid host", "try again later")
    finally:
        for one in hosts:
            admin.compute.enable_service(one)


def test_an_operators_policy_is_obeyed(refused, cloud: Cloud, demo: Connection, spare: Server):
    place = cloud.control.conf / "nova" / "policy.d"
    place.mkdir(exist_ok=True)
    file = place / "clones.yaml"
    file.write_text('"os_compute_api:trusted-clone:create": "!"\n')
    try:
        refused(ask(demo, spare.id), 403, "trusted-clone:create")
    finally:
        file.unlink()


def test_a_stopped_server(refused, demo: Connection, spare: Server):
    """The last of those that need it running."""
    demo.compute.stop_server(spare.id)
    spare.wait_for_status("SHUTOFF")
    refused(ask(demo, spare.id), 409, "stopped", "while it is ACTIVE")
