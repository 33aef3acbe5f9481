"""Open vSwitch in a node, wholly in user space: no kernel module is needed.

``br-data`` is connected to the data network; Neutron's agent makes ``br-int`` and what joins them.

A switch in user space turns its ports promiscuous by reading an interface's flags and writing them back. When libvirt sets a
guest's new interface up in between, it is down again, and the guest without a network. Nor does it notice when an interface
goes and comes again between two of its looks (a rescue does that): it goes on listening to the one that is gone, and the new
one is never promiscuous. The kernel's switch knows no such races; here a watch on each host sets such interfaces up, and asks
for another port number, by which the switch opens them anew.
"""

from __future__ import annotations

import functools

from labkit.cloud.network import DATA_LINK
from labkit.cloud.nodes import CloudNode
from labkit.cloud.service import Service
from labkit.errors import CommandFailed
from labkit.node import Node

SOCKET = "/run/openvswitch/db.sock"
CONNECTION = f"unix:{SOCKET}"
# For who is not root: os-vif, by its own default.
LOOPBACK = "tcp:127.0.0.1:6640"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
DATABASE = "/etc/openvswitch/conf.db"
DATAPATH = "netdev"
INTEGRATION = "br-int"
DATA_BRIDGE = "br-data"
WATCH = """\
lost=" "
while :; do
    read -r -t 2 _number name flags _rest
    ended=$?
    if [ $ended -eq 0 ]; then
        case "$name $flags" in
        *,UP,* | *,UP\\>*) ;;
        tap*) ip link set "${name%%[:@]*}" up ;;
        esac
    elif [ $ended -gt 128 ]; then
        found=" "
        while read -r _number name flags _rest; do
            case "$name $flags" in
            tap*PROMISC*) ;;
            tap*)
                name="${name%%[:@]*}"
                found="$found$name "
                case "$lost" in
                *" $name "*)
                    echo "$name: opened anew"
                    ovs-vsctl --if-exists set interface "$name" ofport_request=$((RANDOM % 20000 + 1000))
                    ;;
                esac
                ;;
            esac
        done < <(ip -o link show up)
        lost="$found"
    else
        exit 1
    fi
done < <(ip -o monitor link)
"""


def services(node: CloudNode) -> tuple[Service, Service]:
    """Its database, then the switch itself."""
    # Not the daemons' own --detach: the record must hold the pid of the one that stays.
    database = (
        "ovsdb-server",
        DATABASE,
        f"--remote=punix:{SOCKET}",
        "--remote=ptcp:6640:127.0.0.1",
        "--no-chdir",
        "-vconsole:warn",
    )
    switch = ("ovs-vswitchd", CONNECTION, "--no-chdir", "--pidfile", "-vconsole:warn")
    return (
        Service(
            f"ovsdb-{node.name}", node, database, functools.partial(_answers, node, "list-dbs")
        ),
        Service(f"ovs-vswitchd-{node.name}", node, switch, functools.partial(_switches, node)),
    )


def watch(node: CloudNode) -> Service:
    """What sets guests' interfaces up again."""
    return Service(f"tap-watch-{node.name}", node, ("bash", "-c", WATCH))


def _answers(node: Node, question: str) -> bool:
    return _succeeds(node, ["ovsdb-client", question, CONNECTION])


def _switches(node: Node) -> bool:
    return _succeeds(node, ["ovs-appctl", "-t", "ovs-vswitchd", "version"])


def _succeeds(node: Node, command: list[str]) -> bool:
    try:
        node.run(command, limit_s=10)
    except CommandFailed:
        return False
    return True


def up(node: CloudNode) -> None:
    """Start both, and connect the node's cable."""
    database, switch = services(node)
    node.run(["ovsdb-tool", "create", DATABASE, SCHEMA])
    database.start()
    node.run(["ovs-vsctl", "--no-wait", "init"])
    switch.start()
    for bridge in (INTEGRATION, DATA_BRIDGE):
        command = ["ovs-vsctl", "--may-exist", "add-br", bridge, "--", "set", "bridge", bridge]
        node.run([*command, f"datapath_type={DATAPATH}"])
    node.run(["ovs-vsctl", "--may-exist", "add-port", DATA_BRIDGE, DATA_LINK])
