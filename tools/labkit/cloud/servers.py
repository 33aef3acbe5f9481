"""Servers in the cloud, as a person at a terminal and their owner see them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from openstack.connection import Connection
from openstack.exceptions import NotFoundException

from labkit import process
from labkit.cloud import resources
from labkit.cloud.cloud import Cloud
from labkit.cloud.nodes import Compute
from labkit.console import Console, Line
from labkit.errors import CommandFailed, ConsoleTimeout, LabError

# Emulated, on two processors, beside a whole cloud.
ACTIVE_LIMIT_S = 240.0
READY_LIMIT_S = 120.0
POLL_S = 0.3


@dataclasses.dataclass(frozen=True)
class Server:
    """One server. Its methods ask as whoever ``client`` is; the place where it runs is looked for as the administrator.

    :ivar client: used by a thread in the control node's network namespace
    """

    cloud: Cloud
    client: Connection
    admin: Connection
    id: str

    def shown(self) -> Any:
        """What Nova tells the administrator of it.

        :raises NotFoundException: when there is no such server
        """
        return self.admin.compute.get_server(self.id)

    @property
    def status(self) -> str:
        """As Nova has it, or ``DELETED``."""
        try:
            return str(self.shown().status)
        except NotFoundException:
            return "DELETED"

    @property
    def host(self) -> Compute:
        """Where it runs.

        :raises LabError: when it has no host
        """
        name = self.shown().compute_host
        for host in self.cloud.computes:
            if host.name == name:
                return host
        raise LabError(f"server {self.id} runs on {name!r}, which is no host of this cloud")

    @property
    def directory(self) -> pathlib.Path:
        """Its files on its host."""
        return self.host.nova_files / "instances" / self.id

    @property
    def console(self) -> Console:
        """What it prints."""
        return Console(self.directory / "console.log")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its fixed IPv4 addresses, in the order of its ports."""
        found = self.shown().addresses
        return tuple(
            one["addr"] for network in found.values() for one in network if one["version"] == 4
        )

    def wait_for_status(self, wanted: str = "ACTIVE", limit_s: float = ACTIVE_LIMIT_S) -> None:
        """Wait until Nova says so.

        :raises LabError: with the fault, when it fails or nothing comes of it in time
        """
        seen: list[str] = []

        def ended() -> bool:
            seen[:] = [self.status]
            return seen[0] in (wanted, "ERROR")

        if not process.wait_until(ended, limit_s, POLL_S) or seen[0] != wanted:
            raise LabError(f"server {self.id} is {seen[0]}, not {wanted}; {self._fault()}")

    def _fault(self) -> str:
        try:
            return f"fault: {(self.shown().fault or {}).get('message', 'none')}"
        except NotFoundException:
            return "it does not exist"

    def wait_ready(self, limit_s: float = READY_LIMIT_S) -> Line:
        """Wait until the guest's program has begun its work; its READY line."""
        return self.console.wait_for("READY", timeout_s=limit_s)

    def answers_ping(self, limit_s: float = READY_LIMIT_S) -> bool:
        """Whether its first address is answered from within ``limit_s``."""
        (address, *_) = self.addresses
        return answers_ping(self.cloud, address, limit_s)

    def says_address(self, limit_s: float = READY_LIMIT_S) -> bool:
        """Whether the guest itself says, from now on, that it has its first address."""
        (address, *_) = self.addresses
        console = self.console
        try:
            console.wait_for(
                "NIC", lambda line: line.values.get("ip") == address, limit_s, console.size()
            )
        except ConsoleTimeout:
            return False
        return True

    def delete(self, limit_s: float = ACTIVE_LIMIT_S) -> None:
        """Delete it and wait until it is gone; harmless when there is none.

        :raises LabError: when it stays
        """
        self.admin.compute.delete_server(self.id, ignore_missing=True)
        if not process.wait_until(lambda: self.status == "DELETED", limit_s, POLL_S):
            raise LabError(f"server {self.id} is still {self.status}; {self._fault()}")


def create(
    cloud: Cloud,
    client: Connection,
    admin: Connection,
    name: str,
    flavor: str = "small",
    networks: tuple[str, ...] = (resources.NETWORK,),
    image: str = resources.IMAGE,
    **further: Any,
) -> Server:
    """Ask for a server of the lab's image, or of another.

    :param client: whose it shall be
    :param image: a name or an ID
    :param further: what Nova's API takes besides
    """
    made = client.compute.create_server(
        name=name,
        flavor_id=client.compute.find_flavor(flavor, ignore_missing=False).id,
        image_id=client.image.find_image(image, ignore_missing=False).id,
        networks=[
            {"uuid": client.network.find_network(one, ignore_missing=False).id} for one in networks
        ],
        **further,
    )
    return Server(cloud, client, admin, made.id)


def answers_ping(cloud: Cloud, address: str, limit_s: float) -> bool:
    """Whether ``address`` answers within ``limit_s``, asked from the control node."""

    def answered() -> bool:
        try:
            cloud.control.run(["ping", "-n", "-c", "1", "-W", "1", address], limit_s=10)
        except CommandFailed:
            return False
        return True

    return process.wait_until(answered, limit_s, POLL_S)
