"""What a request for clones makes, when all is well."""

from __future__ import annotations

import uuid

import nova.conf
import pytest
from nova import context as nova_context
from nova import objects

from nova_trusted_clone.rpc.errors import Unavailable
from tests.unit.api import world as worlds

GROUP, SOURCE = "trusted_clone_group", "trusted_clone_source"


def built(world, server: str):
    """Nova's records of a server that the scheduler has not placed yet."""
    context = nova_context.get_admin_context()
    request = objects.BuildRequest.get_by_instance_uuid(context, server)
    return request, objects.RequestSpec.get_by_instance_uuid(context, server)


def handed(world):
    """What the scheduler is asked."""
    assert world.nova_conductor.came.wait(5)
    (built,) = world.nova_conductor.built
    context = nova_context.get_admin_context()
    return [
        objects.RequestSpec.obj_from_primitive(spec, context) for spec in built["request_specs"]
    ]


def test_a_clone_is_an_ordinary_server_with_two_marks_and_a_trait(world):
    source = world.server()
    reply = world.clone(source, name="copy", nonce="AB" * 16)
    assert reply.status == 202, reply.body
    made = reply.body["trusted_clones"]
    assert made["nonce"] == "ab" * 16
    (server,) = made["servers"]
    assert server["name"] == "copy"
    assert {link["rel"] for link in server["links"]} == {"self", "bookmark"}
    request, _spec = built(world, server["id"])
    assert request.instance.system_metadata[GROUP] == made["group"]
    assert request.instance.system_metadata[SOURCE] == source
    assert request.instance.image_ref == worlds.IMAGE
    assert request.instance.flavor.name == "small"
    assert request.instance.metadata == {"role": "web"}
    (spec,) = handed(world)
    assert spec.request_level_params.root_required == {"CUSTOM_TRUSTED_CLONE"}


def test_the_conductor_hears_of_the_request_and_then_of_its_servers(world):
    source = world.server()
    made = world.clone(source, count=2, memory="eager", vtpm="derive").body["trusted_clones"]
    (request,) = world.conductor.groups.values()
    assert request["group"] == made["group"]
    assert (request["source_server"], request["source_host"]) == (source, worlds.HOST)
    assert (request["vtpm"], request["memory"], request["count"]) == ("derive", "eager", 2)
    assert (request["project_id"], request["user_id"]) == (worlds.PROJECT, "u1")
    assert request["request_id"].startswith("req-")
    recorded = {row["server_id"]: row["id"] for row in world.conductor.records}
    assert recorded == {row["server_id"]: row["id"] for row in made["clones"]}
    assert set(recorded) == {row["id"] for row in made["servers"]}


def test_the_server_tells_in_its_list_of_events_that_it_was_cloned(world):
    source = world.server()
    assert world.clone(source).status == 202
    assert world.events(source) == ["trusted_clone"]


def test_several_clones_have_numbers_as_novas_own_servers_have(world):
    source = world.server()
    made = world.clone(source, name="copy", count=3).body["trusted_clones"]
    assert [row["name"] for row in made["servers"]] == ["copy-1", "copy-2", "copy-3"]
    for server in made["servers"]:
        request, _spec = built(world, server["id"])
        assert request.instance.system_metadata[GROUP] == made["group"]


@pytest.mark.parametrize(
    ("source_name", "count", "named"),
    [
        ("web-1", 1, "web-1-clone"),
        ("n" * 255, 1, "n" * 249 + "-clone"),
        ("n" * 255, 2, "n" * 247 + "-clone-1"),
    ],
)
def test_a_clone_without_a_name_has_that_of_its_source(world, source_name, count, named):
    source = world.server(display_name=source_name)
    made = world.clone(source, count=count).body["trusted_clones"]
    assert made["servers"][0]["name"] == named


def test_a_name_in_any_script_comes_back_as_it_went(world):
    reply = world.clone(world.server(), name="клон ☂ 複製")
    assert reply.body["trusted_clones"]["servers"][0]["name"] == "клон ☂ 複製"


def test_nothing_of_the_sources_own_secrets_is_taken_over(world):
    source = world.server()
    server = world.clone(source).body["trusted_clones"]["servers"][0]["id"]
    request, spec = built(world, server)
    kept = request.instance.system_metadata
    assert not [key for key in kept if "vtpm_secret" in key]
    assert "somebody" not in kept.values()
    assert spec.image.properties.hw_machine_type == "q35"


def test_the_image_is_the_one_that_the_server_was_booted_from_not_todays(world):
    """Glance is asked nothing: there is none in this cloud."""
    server = world.clone(world.server()).body["trusted_clones"]["servers"][0]["id"]
    request, _spec = built(world, server)
    kept = request.instance.system_metadata
    assert kept["image_hw_machine_type"] == "q35"
    assert kept["image_min_disk"] == "1"
    assert kept["image_base_image_ref"] == worlds.IMAGE


def test_the_disks_are_those_of_the_source(world):
    """Not those of its flavor: the server was booted with less."""
    flavor = worlds.flavor(ephemeral_gb=3, swap=512)
    disks = [
        worlds.root_disk(),
        worlds.blank_disk(2, "/dev/vdc", "ext4"),
        worlds.blank_disk(256, "/dev/vdd", "swap"),
    ]
    source = world.server(flavor=flavor, disks=disks)
    server = world.clone(source).body["trusted_clones"]["servers"][0]["id"]
    request, _spec = built(world, server)
    found = [
        (disk.device_name, disk.source_type, disk.volume_size, disk.guest_format)
        for disk in request.block_device_mappings
    ]
    assert found == [
        ("/dev/vda", "image", None, None),
        ("/dev/vdc", "blank", 2, "ext4"),
        ("/dev/vdd", "blank", 256, "swap"),
    ]
    assert all(disk.instance_uuid in (None, server) for disk in request.block_device_mappings)


def test_the_key_pair_is_the_sources_even_when_nobody_has_it_any_more(world):
    pair = objects.KeyPair(
        name="gone", user_id="u1", public_key="ssh-ed25519 AAAA", type="ssh", fingerprint="f"
    )
    source = world.server(
        key_name="gone", key_data="ssh-ed25519 AAAA", keypairs=objects.KeyPairList(objects=[pair])
    )
    reply = world.clone(source)
    assert reply.status == 202, reply.body
    request, _spec = built(world, reply.body["trusted_clones"]["servers"][0]["id"])
    assert request.instance.key_data == "ssh-ed25519 AAAA"
    assert [row.name for row in request.instance.keypairs] == ["gone"]


def test_config_drive_and_user_data_are_the_sources(world):
    source = world.server(config_drive="True", user_data="aGk=")
    server = world.clone(source).body["trusted_clones"]["servers"][0]["id"]
    request, _spec = built(world, server)
    assert (request.instance.config_drive, request.instance.user_data) == ("True", "aGk=")


def test_metadata_of_the_request_stands_in_place_of_the_sources(world):
    server = world.clone(world.server(), metadata={"a": "b"}).body["trusted_clones"]["servers"][0]
    request, _spec = built(world, server["id"])
    assert request.instance.metadata == {"a": "b"}


def test_a_server_without_vtpm_has_clones_without(world):
    world.compute.shape["has_vtpm"] = False
    assert world.clone(world.server()).status == 202
    (request,) = world.conductor.groups.values()
    assert request["vtpm"] == "none"


def test_the_conductors_nonce_is_told_where_the_client_gave_none(world):
    assert world.clone(world.server()).body["trusted_clones"]["nonce"] == "5a" * 16


def test_a_conductor_that_is_away_for_a_moment_is_told_again(world):
    world.conductor.errors["register"] = [Unavailable("restarting")]
    reply = world.clone(world.server())
    assert reply.status == 202
    assert len(world.conductor.records) == 1


def test_the_zone_that_was_asked_for_the_source_is_asked_for_its_clones(world):
    source = world.server(availability_zone="where-it-happens-to-be")
    zone = nova.conf.CONF.default_availability_zone
    context = nova_context.get_admin_context()
    objects.RequestSpec(
        context,
        instance_uuid=source,
        availability_zone=zone,
        flavor=worlds.flavor(),
        num_instances=1,
        numa_topology=None,
        pci_requests=None,
        project_id=worlds.PROJECT,
        user_id="u1",
        ignore_hosts=None,
        force_hosts=None,
        force_nodes=None,
        retry=None,
        limits=None,
        instance_group=None,
        scheduler_hints={},
        image=None,
        security_groups=objects.SecurityGroupList(objects=[]),
        requested_destination=None,
    ).create()
    server = world.clone(source).body["trusted_clones"]["servers"][0]["id"]
    request, spec = built(world, server)
    assert request.instance.availability_zone == spec.availability_zone == zone


def test_an_administrator_names_the_host(world):
    source = world.server()
    reply = world.clone(source, {"roles": "admin,member,reader"}, host=worlds.HOST)
    assert reply.status == 202, reply.body
    (spec,) = handed(world)
    assert spec.requested_destination.host == worlds.HOST


@pytest.mark.parametrize("version", [None, "2.1", "2.104", "latest"])
def test_every_version_of_novas_api_has_the_action(world, version):
    assert world.clone(world.server(), {"version": version}).status == 202


def test_urls_with_the_projects_id_are_the_same(world):
    source = world.server()
    path = f"/{worlds.PROJECT}/servers/{source}"
    reply = world.call("POST", f"{path}/action", {"trustedClone": {}})
    assert reply.status == 202
    self_link = reply.body["trusted_clones"]["servers"][0]["links"][0]["href"]
    assert f"/v2.1/{worlds.PROJECT}/servers/" in self_link
    listed = world.call("GET", f"{path}/trusted-clones")
    assert len(listed.body["trusted_clones"]) == 1


def test_novas_own_actions_are_where_they_were(world):
    reply = world.call("POST", f"/servers/{world.server()}/action", {"noSuchAction": None})
    assert (reply.status, reply.said) == (400, "There is no such action: noSuchAction")
    locked = world.call("POST", f"/servers/{world.server()}/action", {"lock": None})
    assert locked.status == 202


def test_placement_is_asked_for_a_host_with_the_trait_and_room(world):
    world.clone(world.server())
    (asked,) = world.placement.asked
    query = asked.to_querystring()
    assert "root_required=" in query and "CUSTOM_TRUSTED_CLONE" in query
    assert "limit=1" in query and "MEMORY_MB%3A512" in query


def test_ids_are_fresh_for_each_request(world):
    source = world.server()
    groups = set()
    for _ in range(2):
        groups.add(world.clone(source).body["trusted_clones"]["group"])
        for record in world.conductor.records:
            record["phase"] = "complete"
    assert len(groups) == 2
    assert all(uuid.UUID(group) for group in groups)
