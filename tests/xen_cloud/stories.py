"""What the stories of servers on Xen have in common."""

from __future__ import annotations

from labkit.xen.cloud import XenCloud
from labkit.xen.machine import Machine
from labkit.xen.servers import Server, openstack


def cloned(cloud: XenCloud, source: Server, name: str) -> Server:
    """A clone on the other host, made by its owner's command; both go on undamaged."""
    (row,) = openstack(cloud, "server", "clone", source.id, "--name", name, "--wait")
    clone = Server(cloud, row["Server ID"], source.boots_itself)
    assert (row["Phase"], row["Evidence"]) == ("complete", "holds")
    assert clone.status == "ACTIVE"
    assert clone.host != source.host
    for guest in (source.guest, clone.guest):
        since = guest.size()
        assert guest.wait_for_pass().number("bad") == 0
        disk = guest.wait_for("DISKCHECK", since)
        assert disk.number("bad") == 0 and disk.number("blocks") > 0
    return clone


def console(cloud: XenCloud, server: Server) -> str:
    """What its owner reads of its console."""
    told = cloud.ask(lambda owner: owner.compute.get_server_console_output(server.id), "demo")
    return str(told["output"])


def traces(machine: Machine) -> set[str]:
    """Domains, servers' directories and vTPMs of a host."""
    found = machine.run(["virsh", "-c", "xen:///system", "list", "--all", "--name"]).split()
    for place in ("/var/lib/nova/instances", "/var/lib/nova-trusted-clone/domain-vtpms"):
        found += machine.run(["bash", "-c", f"ls {place} 2>/dev/null || true"]).split()
    # What all servers of a host share.
    return set(found) - {"_base", "locks", "compute_nodes"}
