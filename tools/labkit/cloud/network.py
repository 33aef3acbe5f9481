"""The cables: a management network for the services, a data network for the guests, both switched on the control node.

::

    host-a  lab0 ──┐               ┌── data0 ─ br-data (Open vSwitch) ─ br-int ─ guests
    host-b  lab0 ──┼ mgmt      data ┼── data0 ─ ...
    control        ┘ (bridge) (bridge) ── data0 ─ br-data ─ br-int ─ DHCP

The control node's own address on ``data`` is the place from which a guest is pinged.
"""

from __future__ import annotations

from labkit.cloud import settings
from labkit.cloud.nodes import Compute, Control
from labkit.host import LINK
from labkit.node import Node

MANAGEMENT = "mgmt"
DATA = "data"
DATA_LINK = "data0"


def make_bridges(control: Control) -> None:
    """Make both networks, with the control node on them."""
    control.run(
        ["sh", "-e"],
        script="\n".join(
            [
                f"ip link add {MANAGEMENT} type bridge",
                f"ip address add {control.address}/{settings.PREFIX_LENGTH} dev {MANAGEMENT}",
                f"ip link set {MANAGEMENT} up",
                f"ip link add {DATA} type bridge",
                f"ip address add {settings.GATEWAY}/{settings.LAN.partition('/')[2]} dev {DATA}",
                f"ip link set {DATA} up",
                # The switch's end and the bridge's end of one cable, both here.
                f"ip link add {DATA_LINK} type veth peer name {DATA}-own",
                f"ip link set {DATA}-own master {DATA}",
                f"ip link set {DATA}-own up",
                f"ip link set {DATA_LINK} up",
            ]
        ),
    )


def connect(control: Control, host: Compute) -> None:
    """Lay both cables of a host."""
    _cable(control, MANAGEMENT, host, LINK)
    host.run(["ip", "address", "add", f"{host.address}/{settings.PREFIX_LENGTH}", "dev", LINK])
    _cable(control, DATA, host, DATA_LINK)


def _cable(control: Control, bridge: str, node: Node, name: str) -> None:
    """From ``bridge`` on the control node to an interface of ``node``."""
    end = f"{bridge}-{node.name.rpartition('-')[2]}"
    holder = str(node.sandbox.holder.pid)
    control.run(["ip", "link", "add", end, "type", "veth", "peer", "name", name, "netns", holder])
    control.run(["ip", "link", "set", end, "master", bridge])
    control.run(["ip", "link", "set", end, "up"])
    node.run(["ip", "link", "set", name, "up"])


def set_link(control: Control, host: Compute, up: bool) -> None:
    """Plug a host's management cable in or pull it."""
    end = f"{MANAGEMENT}-{host.name.rpartition('-')[2]}"
    control.run(["ip", "link", "set", end, "up" if up else "down"])
