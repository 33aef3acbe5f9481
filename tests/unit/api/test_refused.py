"""What is refused: each by name, with what to do next, and nothing is left."""

from __future__ import annotations

import uuid

import nova.conf
import pytest
from nova import context as nova_context
from nova import objects
from nova.compute import task_states, vm_states

from nova_trusted_clone.rpc.errors import Conflict, NotFound, Refused, Unavailable
from tests.unit.api import world as worlds
from tests.unit.api.fakes import STRANGER

MISSING = "99999999-9999-4999-8999-999999999999"
SECRET_HOST = "compute-17.dc4.example.com"


def refused(world, reply, status: int, *words: str) -> None:
    """The answer has this status and these words, and nothing has come of the request."""
    assert reply.status == status, reply.body
    for word in words:
        assert word in reply.said
    assert not world.nova_conductor.built
    assert not world.conductor.records
    assert set(world.conductor.groups) == set(world.conductor.cancelled)
    left = world.left()
    assert (left["build_requests"], left["request_specs"]) == (0, 0)


# -- the request itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ({"count": 0}, "count"),
        ({"count": -1}, "count"),
        ({"count": 10_000}, "count"),
        ({"count": "2"}, "count"),
        ({"count": True}, "count"),
        ({"count": 1.5}, "count"),
        ({"name": ""}, "attribute name"),
        ({"name": "n" * 300}, "attribute name"),
        ({"name": " x"}, "name"),
        ({"name": None}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"nonce": "00" * 7}, "nonce"),
        ({"nonce": "00" * 65}, "nonce"),
        ({"nonce": "0" * 17}, "nonce"),
        ({"nonce": "zz" * 16}, "nonce"),
        ({"nonce": "00" * 16 + "\n"}, "nonce"),
        ({"nonce": 12345678}, "nonce"),
        ({"vtpm": "none"}, "vtpm"),
        ({"memory": "all"}, "memory"),
        ({"availability_zone": "zone:host"}, "attribute availability_zone"),
        ({"host": "two words"}, "host"),
        ({"metadata": {"k" * 256: "v"}}, "metadata"),
        ({"metadata": {"k": 1}}, "attribute k"),
        ({"networks": "auto"}, "networks"),
        ({"networks": [{"uuid": "lan"}]}, "uuid"),
        ({"networks": [{"uuid": MISSING, "tag": "x"}]}, "tag"),
        ({"flavorRef": "1"}, "trustedClone"),
    ],
)
def test_a_wrong_request(world, wish, word):
    refused(world, world.clone(world.server(), **wish), 400, word)
    assert not world.compute.asked


@pytest.mark.parametrize("body", [{"trustedClone": None}, {"trustedClone": []}])
def test_a_body_that_is_no_object(world, body):
    reply = world.call("POST", f"/servers/{world.server()}/action", body)
    refused(world, reply, 400, "trustedClone")


def test_names_with_their_numbers_have_to_fit(world):
    reply = world.clone(world.server(), name="n" * 254, count=2)
    refused(world, reply, 400, "name: found 254 characters, expected at most 253")


# -- whose server it is -----------------------------------------------------------------------------------------------


def test_a_missing_server(world):
    refused(world, world.clone(MISSING), 404, MISSING)


def test_a_foreign_server_is_as_good_as_missing(world):
    refused(world, world.clone(world.server(project=STRANGER)), 404, "could not be found")


def test_an_administrator_does_not_get_another_projects_memory(world):
    source = world.server(project=STRANGER)
    reply = world.clone(source, {"roles": "admin,member,reader"})
    refused(world, reply, 403, "os_compute_api:trusted-clone:create")


def test_who_may_only_read_does_not_clone(world):
    reply = world.clone(world.server(), {"roles": "reader"})
    refused(world, reply, 403, "os_compute_api:trusted-clone:create")


def test_the_host_is_the_administrators_to_name(world):
    reply = world.clone(world.server(), host=worlds.HOST)
    refused(world, reply, 403, "os_compute_api:trusted-clone:create:host")


def test_an_operators_file_of_policy_is_obeyed_at_once(world):
    with world.policy({"os_compute_api:trusted-clone:create": "!"}):
        refused(world, world.clone(world.server()), 403, "trusted-clone:create")
    with world.policy({"os_compute_api:trusted-clone:create:host": ""}):
        assert world.clone(world.server(), host=worlds.HOST).status == 202


# -- the server as it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vm_state", "task_state", "word"),
    [
        (vm_states.STOPPED, None, "stopped"),
        (vm_states.PAUSED, None, "paused"),
        (vm_states.ERROR, None, "error"),
        (vm_states.SHELVED_OFFLOADED, None, "shelved_offloaded"),
        (vm_states.ACTIVE, task_states.MIGRATING, "migrating"),
        (vm_states.ACTIVE, task_states.DELETING, "deleting"),
    ],
)
def test_a_server_that_does_not_simply_run(world, vm_state, task_state, word):
    source = world.server(vm_state=vm_state, task_state=task_state)
    refused(world, world.clone(source), 409, word, "A server can be cloned while it is ACTIVE")


def test_a_locked_server(world):
    source = world.server(locked=True, locked_by="owner")
    refused(world, world.clone(source), 409, "is locked", "Unlock it first")


def test_a_server_whose_host_is_down(world):
    source = world.server()
    context = nova_context.get_admin_context()
    service = objects.Service.get_by_compute_host(context, worlds.HOST)
    service.last_seen_up = service.last_seen_up.replace(year=2020)
    service.save()
    refused(world, world.clone(source), 409, "host does not report")


def test_a_server_on_a_host_without_the_extension_is_told_at_once(world):
    world.placement.traits[world.node] = {"COMPUTE_NODE"}
    reply = world.clone(world.server())
    refused(world, reply, 409, "host does not offer trusted clones", "ask the operator")
    assert not world.compute.asked


PCI = objects.InstancePCIRequests(
    requests=[objects.InstancePCIRequest(count=1, spec=[{"vendor_id": "8086"}], alias_name="nic")]
)


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ({"pci_requests": PCI}, "PCI devices are passed through"),
        (
            {"flavor": worlds.flavor(extra_specs={"resources:VGPU": "1"})},
            "device of the host (VGPU)",
        ),
        (
            {"flavor": worlds.flavor(extra_specs={"resources1:PGPU": "1"})},
            "device of the host (PGPU)",
        ),
        ({"flavor": worlds.flavor(extra_specs={"accel:device_profile": "fpga"})}, "accelerator"),
        (
            {"disks": [worlds.volume(MISSING, "/dev/vda", 0)], "image_ref": ""},
            f"boots from volume {MISSING}",
        ),
        (
            {"disks": [worlds.root_disk(), worlds.volume(MISSING)]},
            f"volume {MISSING} is attached to it",
        ),
        (
            {"disks": [worlds.root_disk() | {"encrypted": True}]},
            "/dev/vda is encrypted by its host",
        ),
    ],
    ids=["pci", "vgpu", "pgpu", "accelerator", "volume-backed", "volume", "encrypted"],
)
def test_a_server_with_what_cannot_be_taken_along(world, server, reason):
    refused(world, world.clone(world.server(**server)), 409, "cannot be cloned", reason)


@pytest.mark.parametrize("model", ["amd-sev", "amd-sev-es", "intel-tdx"])
def test_a_server_whose_memory_is_encrypted_by_its_flavor(world, model):
    flavor = worlds.flavor(
        extra_specs={"hw:mem_encryption": "True", "hw:mem_encryption_model": model}
    )
    metadata = {
        "image_hw_firmware_type": "uefi",
        "image_hw_machine_type": "q35",
        "image_hw_firmware_stateless": "True",
        "image_hw_video_model": "none",
        "image_disk_format": "qcow2",
    }
    source = world.server(flavor=flavor, system_metadata=metadata)
    refused(world, world.clone(source), 409, "encrypted against its host")


def test_a_server_whose_memory_is_encrypted_by_its_image(world):
    metadata = {
        "image_hw_mem_encryption": "True",
        "image_hw_firmware_type": "uefi",
        "image_hw_machine_type": "q35",
        "image_disk_format": "qcow2",
    }
    refused(world, world.clone(world.server(system_metadata=metadata)), 409, "encrypted against")


def test_an_sriov_interface(world):
    source = world.server()
    with worlds.cell() as context:
        instance = objects.Instance.get_by_uuid(context, source)
        vifs = instance.info_cache.network_info
        vifs[0]["vnic_type"] = "direct"
        instance.info_cache.network_info = vifs
        instance.info_cache.save()
    refused(world, world.clone(source), 409, "of type direct")


def test_a_server_whose_flavor_asks_for_encryption_and_contradicts_itself(world):
    flavor = worlds.flavor(extra_specs={"hw:mem_encryption": "True"})
    refused(world, world.clone(world.server(flavor=flavor)), 409, "encrypted against its host")


def test_a_share_of_manila(world):
    source = world.server()
    with worlds.cell() as context:
        share = objects.share_mapping.ShareMapping(
            context,
            uuid=str(uuid.uuid4()),
            instance_uuid=source,
            share_id=MISSING,
            status="active",
            tag="t",
            export_location="nfs:/x",
            share_proto="NFS",
        )
        share.create()
    refused(world, world.clone(source), 409, f"share {MISSING} is attached")


def test_every_reason_is_told_novas_and_the_hosts(world):
    world.compute.shape["obstacles"] = ["the server's memory is on huge pages", "it has ivshmem"]
    source = world.server(disks=[worlds.root_disk(), worlds.volume(MISSING)], pci_requests=PCI)
    reply = world.clone(source)
    refused(world, reply, 409, "PCI devices", "volume", "huge pages", "ivshmem")


def test_what_nova_knows_is_told_even_when_the_host_does_not_answer(world):
    world.compute.error = Unavailable("busy")
    refused(world, world.clone(world.server(pci_requests=PCI)), 409, "PCI devices")


def test_a_guest_that_has_stopped_by_itself(world):
    world.compute.shape["running"] = False
    refused(world, world.clone(world.server()), 409, "the guest is not running")


def test_a_server_that_is_elsewhere(world):
    world.compute.error = NotFound("server does not run here")
    refused(world, world.clone(world.server()), 409, "does not run where nova's records have it")


@pytest.mark.parametrize("mode", ["new", "derive"])
def test_a_vtpm_asked_for_where_there_is_none(world, mode):
    world.compute.shape["has_vtpm"] = False
    refused(world, world.clone(world.server(), vtpm=mode), 409, "vtpm", "has no vTPM")


def test_a_derived_vtpm_where_the_hosts_policy_does_not_allow_it(world):
    world.compute.shape["vtpm_modes"] = ["new"]
    refused(world, world.clone(world.server(), vtpm="derive"), 409, "vtpm", "derive")


# -- the services -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Conflict(f"host {SECRET_HOST} cannot clone: no TPM", "trusted-clone.host.unable"), 409),
        (Refused(f"host {SECRET_HOST} is not enrolled"), 409),
        (Unavailable(f"inspect on {SECRET_HOST}: no answer within 20 s"), 503),
    ],
)
def test_names_of_hosts_are_for_operators_only(world, error, status):
    world.compute.error = error
    reply = world.clone(world.server())
    refused(world, reply, status, error.code)
    assert SECRET_HOST not in reply.said
    told = world.clone(world.server(), {"roles": "admin,member,reader"})
    refused(world, told, status, SECRET_HOST)


@pytest.mark.parametrize("phase", ["scheduling", "fetching", "provisional"])
def test_the_same_request_twice(world, phase):
    """A server is frozen for one request at a time."""
    source = world.server()
    first = world.conductor.record(source, world.server(), phase=phase)
    reply = world.clone(source)
    assert reply.status == 409
    assert f"clone {first['id']} is {phase}" in reply.said and "or abort it" in reply.said
    assert not world.conductor.groups
    first["phase"] = "complete"
    assert world.clone(source).status == 202


def test_a_clone_on_its_way_does_not_stop_its_own_clones(world):
    """That it may still fetch is for its host to say."""
    clone = world.server()
    world.conductor.record(world.server(), clone, phase="complete")
    assert world.clone(clone).status == 202


def test_a_server_that_is_being_cloned_already(world):
    world.conductor.errors["begin"] = [
        Conflict("the server is being cloned (group 12)", "trusted-clone.source.busy")
    ]
    refused(world, world.clone(world.server()), 409, "being cloned", "trusted-clone.source.busy")


def test_no_conductor_no_clones(world):
    world.conductor.errors["begin"] = [Unavailable("no answer within 30 s")]
    refused(world, world.clone(world.server()), 503, "Try again in a moment")


def test_servers_that_the_conductor_cannot_be_told_of_are_deleted_again(world, monkeypatch):
    monkeypatch.setattr("nova_trusted_clone.api.requests.INSIST_S", 0)
    world.conductor.errors["register"] = [Unavailable("restarting")]
    source = world.server()
    reply = world.clone(source, count=2)
    assert reply.status == 503, reply.body
    assert world.nova_conductor.came.wait(5)
    assert set(world.conductor.groups) == set(world.conductor.cancelled)
    assert world.left()["build_requests"] == 0
    (why,) = world.conductor.cancelled.values()
    assert "could not be recorded" in why


# -- where the clones would be ----------------------------------------------------------------------------------------


def test_no_host_is_eligible(world):
    world.placement.room = False
    refused(world, world.clone(world.server()), 409, "No valid host", "no host that can receive")


def test_placement_is_away(world):
    world.placement.away = True
    refused(world, world.clone(world.server()), 503, "placement", "Try again")


def test_an_unknown_zone(world):
    reply = world.clone(world.server(), availability_zone="atlantis")
    refused(world, reply, 400, "availability zone")


def test_an_unknown_host(world):
    reply = world.clone(world.server(), {"roles": "admin,member,reader"}, host="nowhere")
    refused(world, reply, 400, "nowhere", "Name another host")


# -- quotas -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quota():
    """Set a default quota for a while."""
    CONF = nova.conf.CONF  # noqa: N806 - as everywhere in OpenStack
    changed = []

    def limit(name: str, value: int) -> None:
        CONF.set_override(name, value, group="quota")
        changed.append(name)

    yield limit
    for name in changed:
        CONF.clear_override(name, group="quota")


@pytest.mark.parametrize(("name", "value"), [("instances", 3), ("cores", 3), ("ram", 1600)])
def test_a_quota_that_ends_within_the_batch(world, quota, name, value):
    """The source and two clones would fit; none of five is made."""
    source = world.server()
    quota(name, value)
    refused(world, world.clone(source, count=5), 403, "Quota exceeded", "Ask for fewer clones")
    assert world.clone(source, count=2).status == 202


def test_a_quota_of_ports_that_ends_within_the_batch(world):
    source = world.server()
    world.neutron.port_quota = 3
    refused(world, world.clone(source, count=5), 403, "number of ports")


def test_a_quota_of_metadata(world, quota):
    quota("metadata_items", 1)
    reply = world.clone(world.server(), metadata={"a": "1", "b": "2"})
    refused(world, reply, 403, "metadata")
