"""The interfaces of clones."""

from __future__ import annotations

import pytest
from nova import context as nova_context
from nova import objects

from tests.unit.api.fakes import STRANGER
from tests.unit.api.test_refused import MISSING, refused


def requested(world) -> list[tuple[str | None, str | None, str | None]]:
    """What nova-conductor is asked to plug in: network, port, address."""
    assert world.nova_conductor.came.wait(5)
    handed = world.nova_conductor.built[-1]["requested_networks"]
    rows = objects.NetworkRequestList.obj_from_primitive(handed, nova_context.get_admin_context())
    return [(row.network_id, row.port_id, str(row.address or "") or None) for row in rows]


def groups(world) -> list[str]:
    """The security groups of the servers that are built."""
    assert world.nova_conductor.came.wait(5)
    context = nova_context.get_admin_context()
    spec = objects.RequestSpec.obj_from_primitive(
        world.nova_conductor.built[-1]["request_specs"][0], context
    )
    return [group.uuid if "uuid" in group else group.name for group in spec.security_groups]


def test_the_networks_of_the_source_in_their_order(world):
    first, second = world.neutron.network(), world.neutron.network()
    source = world.server(networks=[second, first, second])
    assert world.clone(source, count=2).status == 202
    assert requested(world) == [(net, None, None) for net in (second, first, second)]


def test_a_server_without_interfaces_has_clones_without(world):
    assert world.clone(world.server(networks=[])).status == 202
    assert requested(world) == [("none", None, None)]


def test_the_security_groups_of_the_source_by_id(world):
    world.neutron.group("web")  # another of the same name
    assert world.clone(world.server()).status == 202
    assert groups(world) == [world.secured_by]


def test_interfaces_that_differ_in_their_groups_are_not_made_alike(world):
    """Each interface of a new server has all groups that nova is given: what is closed would be open."""
    source = world.server(networks=[world.network, world.network])
    port = next(p for p in world.neutron.ports.values() if p["device_id"] == source)
    port["security_groups"] = [world.neutron.group("closed")]
    refused(world, world.clone(source), 409, "differ in their security groups", "make ports")
    given = [{"port": world.neutron.port(world.network)} for _ in range(2)]
    assert world.clone(source, networks=given).status == 202


@pytest.mark.parametrize(
    "change", [{"security_groups": []}, {"port_security_enabled": False, "also": True}]
)
def test_an_interface_without_any_group_is_not_given_the_default(world, change):
    count = 2 if change.pop("also", False) else 1
    source = world.server(networks=[world.network] * count)
    port = next(p for p in world.neutron.ports.values() if p["device_id"] == source)
    port.update(change)
    refused(world, world.clone(source), 409, "security groups")


def test_port_security_that_is_off_needs_no_groups(world):
    source = world.server()
    for port in world.neutron.ports.values():
        port.update({"port_security_enabled": False, "security_groups": []})
    assert world.clone(source).status == 202
    assert groups(world) == ["default"]


def test_networks_and_ports_of_the_request(world):
    other = world.neutron.network()
    port = world.neutron.port(other)
    source = world.server(networks=[world.network, other])
    wanted = [{"uuid": other, "fixed_ip": "10.0.0.200"}, {"port": port}]
    assert world.clone(source, networks=wanted).status == 202
    assert requested(world) == [(other, None, "10.0.0.200"), (None, port, None)]


def test_a_guest_that_runs_needs_as_many_interfaces_as_it_has(world):
    reply = world.clone(world.server(), networks=[{"uuid": world.network}] * 2)
    refused(world, reply, 400, "networks: found 2, expected 1")
    refused(world, world.clone(world.server(), networks=[]), 400, "networks: found 0, expected 1")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "networks[0]: expected uuid"),
        ({"fixed_ip": "10.0.0.9"}, "networks[0]: expected uuid"),
        ({"port": MISSING, "uuid": MISSING}, "networks[0]: a port has its network"),
        ({"port": MISSING, "fixed_ip": "10.0.0.9"}, "networks[0]: a port has its network"),
    ],
)
def test_a_row_that_says_nothing_or_too_much(world, row, words):
    refused(world, world.clone(world.server(), networks=[row]), 400, words)


def test_an_unknown_network(world):
    reply = world.clone(world.server(), networks=[{"uuid": MISSING}])
    refused(world, reply, 400, MISSING, "Give other networks")


def test_a_foreign_network(world):
    foreign = world.neutron.network(STRANGER)
    refused(world, world.clone(world.server(), networks=[{"uuid": foreign}]), 400, foreign)


def test_a_network_without_a_subnet(world):
    bare = world.neutron.network(subnets=[])
    refused(world, world.clone(world.server(), networks=[{"uuid": bare}]), 400, "subnet")


def test_an_unknown_port(world):
    refused(world, world.clone(world.server(), networks=[{"port": MISSING}]), 400, MISSING)


def test_a_foreign_port(world):
    foreign = world.neutron.port(world.network, STRANGER)
    refused(world, world.clone(world.server(), networks=[{"port": foreign}]), 400, foreign)


def test_a_port_in_use(world):
    used = world.neutron.port(world.network, device_id=MISSING)
    refused(world, world.clone(world.server(), networks=[{"port": used}]), 409, "in use")


def test_the_same_port_twice(world):
    port = world.neutron.port(world.network)
    source = world.server(networks=[world.network] * 2)
    refused(world, world.clone(source, networks=[{"port": port}] * 2), 400, "given twice")


def test_a_port_on_a_device_of_its_host(world):
    port = world.neutron.port(world.network, **{"binding:vnic_type": "direct"})
    reply = world.clone(world.server(), networks=[{"port": port}])
    refused(world, reply, 400, "SR-IOV", "type normal")


def test_one_port_for_several_clones(world):
    port = world.neutron.port(world.network)
    reply = world.clone(world.server(), networks=[{"port": port}], count=2)
    refused(world, reply, 400, "one clone at a time")


def test_one_address_for_several_clones(world):
    wanted = [{"uuid": world.network, "fixed_ip": "10.0.0.200"}]
    reply = world.clone(world.server(), networks=wanted, count=2)
    refused(world, reply, 400, "one clone at a time")


def test_the_address_of_the_source(world):
    source = world.server()
    port = next(p for p in world.neutron.ports.values() if p["device_id"] == source)
    address = port["fixed_ips"][0]["ip_address"]
    reply = world.clone(source, networks=[{"uuid": world.network, "fixed_ip": address}])
    refused(world, reply, 400, address, "Give another fixed_ip")


def test_neutron_is_away(world):
    source = world.server()
    world.neutron.away = True
    refused(world, world.clone(source), 503, "Try again")
