"""The interfaces of clones: as the request names them, or on the networks of the source.

A guest that runs already expects as many interfaces as it has, in their order.

Leans on nova.objects.NetworkRequest, and on nova.network.neutron for the ports of a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nova import objects

from nova_trusted_clone.api.faults import BadRequest, NotNow

_PORT_FIELDS = ["id", "security_groups", "port_security_enabled"]
_OWN_PORTS = "make ports as the clones should have them, and give these as networks"


def of_request(rows: Sequence[Mapping[str, str]], interfaces: int) -> Any:
    """Return nova's request for the named networks and ports.

    :param interfaces: how many the source has
    :raises BadRequest: naming the row
    """
    if len(rows) != interfaces:
        raise BadRequest(
            f"networks: found {len(rows)}, expected {interfaces}: the clone goes on as the server that it is a clone of, "
            "so it needs as many interfaces, in their order"
        )
    ports = [row["port"] for row in rows if "port" in row]
    for port in ports:
        if ports.count(port) > 1:
            raise BadRequest(f"networks: port {port} is given twice")
    return _requests([_request(row, f"networks[{index}]") for index, row in enumerate(rows)])


def of_source(instance: Any) -> Any:
    """Return nova's request for one interface on the network of each of the server's, in their order."""
    vifs = instance.get_network_info()
    return _requests([objects.NetworkRequest(network_id=vif["network"]["id"]) for vif in vifs])


def names_ports_only(request: Any) -> bool:
    """Whether every interface has a port already, with security groups of its own."""
    return request.no_allocate or all(row.port_id for row in request)


def security_groups(network_api: Any, context: Any, server: str) -> list[str]:
    """Return the ids of the security groups that the interfaces of a server have in common.

    Nova gives all interfaces of a new server the same groups. Where those of the source differ, that would open what is
    closed there.

    :raises NotNow: when they differ, or one has none
    """
    found = network_api.list_ports(context, device_id=server, fields=_PORT_FIELDS)["ports"]
    groups = {
        tuple(sorted(port.get("security_groups") or ()))
        if port.get("port_security_enabled", True)
        else None
        for port in found
    }
    if groups <= {None}:
        return []
    if len(groups) > 1 or () in groups:
        raise NotNow(
            "The server's interfaces differ in their security groups, or one has none while its port security is on, "
            f"and nova would give all interfaces of a clone the same: {_OWN_PORTS}"
        )
    (common,) = groups
    return list(common or ())


def _request(row: Mapping[str, str], where: str) -> Any:
    if "port" in row and len(row) > 1:
        raise BadRequest(f"{where}: a port has its network and addresses: give it alone")
    if "port" not in row and "uuid" not in row:
        raise BadRequest(f"{where}: expected uuid (of a network) or port")
    return objects.NetworkRequest(
        network_id=row.get("uuid"), port_id=row.get("port"), address=row.get("fixed_ip")
    )


def _requests(rows: list[Any]) -> Any:
    # An empty list would have nova choose a network.
    return objects.NetworkRequestList(
        objects=rows or [objects.NetworkRequest(network_id=_NO_NETWORK)]
    )


_NO_NETWORK = "none"  # objects.network_request.NETWORK_ID_NONE
