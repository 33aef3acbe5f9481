"""Servers in the cloud on Xen, as their owner and a person at a host's terminal see them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from typing import Any

from openstack.connection import Connection
from openstack.exceptions import NotFoundException

from labkit import process
from labkit.cloud import clients
from labkit.errors import LabError
from labkit.xen.cloud import BOOTING_IMAGE, FLAVOR, IMAGE, MEMORY_MIB, STATE, XenCloud
from labkit.xen.guests import Definition, XenGuest
from labkit.xen.machine import Machine

TENANT = "demo"
# An emulated host compiles Python's every call.
LIMIT_S = 1200.0
POLL_S = 1.0


@dataclasses.dataclass(frozen=True)
class Server:
    """One server, asked for as its owner; where it runs is looked up as the administrator.

    :ivar boots_itself: from its disk, so that its console is a serial line, whose log is Nova's
    """

    cloud: XenCloud
    id: str
    boots_itself: bool = False

    def shown(self) -> Any:
        """What Nova tells the administrator of it.

        :raises NotFoundException: there is no such server
        """
        return self.cloud.ask(lambda admin: admin.compute.get_server(self.id))

    @property
    def status(self) -> str:
        """As Nova has it, or ``DELETED``."""
        try:
            return str(self.shown().status)
        except NotFoundException:
            return "DELETED"

    @property
    def host(self) -> Machine:
        """Where it runs."""
        return self.cloud.hosts.machine(str(self.shown().compute_host))

    @property
    def guest(self) -> XenGuest:
        """What it is on its host; its definition is its flavor's and no order's."""
        shown = self.shown()
        log = f"{STATE}/instances/{self.id}/console.log" if self.boots_itself else ""
        unordered = Definition(MEMORY_MIB, (), ())
        return XenGuest(self.host, str(shown.instance_name), self.id, unordered, log)

    def wait_for_status(self, wanted: str, limit_s: float = LIMIT_S) -> None:
        """Wait until Nova says so, and is not at work with it.

        :raises LabError: with the fault, when it fails or nothing comes of it in time
        """
        seen: list[str] = []

        def ended() -> bool:
            try:
                shown = self.shown()
            except NotFoundException:
                seen[:] = ["DELETED"]
            else:
                seen[:] = [str(shown.status)]
                if shown.task_state is not None:
                    return False
            return seen[0] in (wanted, "ERROR")

        if not process.wait_until(ended, limit_s, POLL_S) or seen[0] != wanted:
            fault = "" if seen[0] == "DELETED" else (self.shown().fault or {}).get("message", "")
            raise LabError(f"server {self.id} is {seen[0]}, not {wanted}; fault: {fault}")

    def ask(self, action: str, *arguments: Any) -> None:
        """Ask for something by openstacksdk's name of it (``stop_server``), as its owner."""

        def work(owner: Connection) -> None:
            getattr(owner.compute, action)(self.id, *arguments)

        self.cloud.ask(work, TENANT)

    def delete(self) -> None:
        """Delete it and wait until it is gone; harmless when there is none.

        :raises LabError: when it stays
        """
        self.cloud.ask(lambda admin: admin.compute.delete_server(self.id, ignore_missing=True))
        self.wait_for_status("DELETED")


def create(cloud: XenCloud, name: str, image: str = IMAGE) -> Server:
    """Ask for a server of the tenant's, without a network."""

    def work(owner: Connection) -> str:
        made = owner.compute.create_server(
            name=name,
            flavor_id=owner.compute.find_flavor(FLAVOR, ignore_missing=False).id,
            image_id=owner.image.find_image(image, ignore_missing=False).id,
            networks="none",
        )
        return str(made.id)

    return Server(cloud, cloud.ask(work, TENANT), image == BOOTING_IMAGE)


def openstack(cloud: XenCloud, *words: str, limit_s: float = LIMIT_S) -> Any:
    """What ``openstack … -f json`` prints for the tenant.

    :raises LabError: with what it said, when it ends with an error
    """
    done = subprocess.run(
        [*cloud.control.sandbox.enter(), "openstack", *words, "-f", "json"],
        env=clients.environment(cloud.control, TENANT),
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if done.returncode:
        raise LabError(f"openstack {' '.join(words)}: {done.stderr}{done.stdout}")
    return json.loads(done.stdout)
