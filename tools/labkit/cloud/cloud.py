"""The whole cloud: up, with its undo, and down, with a look at what is left."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from typing import TypeVar

from openstack.connection import Connection

from labkit import netns, process
from labkit.cloud import bringup, catalog, clients, ini, rights, settings, trusted
from labkit.cloud.nodes import CloudNode, Compute, Control
from labkit.cloud.service import Service
from labkit.lab import Lab, Report
from labkit.node import Node
from labkit.paths import LabPaths
from labkit.sandbox import inhabitants

DIRECTORY = "cloud"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Cloud(Lab):
    """The control node and two hosts, up or not."""

    control: Control
    plain: bool = False

    @classmethod
    def at(cls, paths: LabPaths, plain: bool = False) -> Cloud:
        """The cloud whose place is ``paths``.

        :param plain: Nova as it is released, with nothing of this project
        """
        return cls(
            paths,
            Compute(paths, "host-a", settings.HOST_A),
            Compute(paths, "host-b", settings.HOST_B),
            Control(paths, "control", settings.CONTROL),
            plain,
        )

    @classmethod
    def from_environment(cls, plain: bool = False) -> Cloud:
        """The cloud of the lab that ``LAB_DIR`` names: it can be up beside the lab's two bare hosts."""
        lab = LabPaths.from_environment()
        return cls.at(LabPaths(lab.root / DIRECTORY, lab.cache), plain)

    @property
    def computes(self) -> tuple[Compute, Compute]:
        """Both hosts."""
        assert isinstance(self.source, Compute)
        assert isinstance(self.destination, Compute)
        return (self.source, self.destination)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All three."""
        return (self.control, *self.computes)

    @property
    def cloud_nodes(self) -> tuple[CloudNode, ...]:
        """All three, as what they are."""
        return (self.control, *self.computes)

    @property
    def services(self) -> tuple[Service, ...]:
        """Every program, running or not."""
        return catalog.services(self.control, self.computes)

    def service(self, name: str) -> Service:
        """The program of that name.

        :raises LabError: when there is none
        """
        return catalog.find(self.services, name)

    def inside(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, run in the control node's network namespace."""
        return netns.call(self.control.sandbox.holder.pid, function)

    def ask(self, question: Callable[[Connection], T], user: str = settings.ADMIN) -> T:
        """What ``question`` returns for a connection to the cloud as ``user``."""
        return clients.ask(self.control, question, user)

    @property
    def control_options(self) -> ini.Sections:
        """Nothing."""
        return {}

    def enrol(self) -> None:
        """Make the operator's authority and certify both hosts."""
        trusted.enrol(self)

    def _make_directories(self) -> None:
        """Logs are those of this cloud, not of one before."""
        shutil.rmtree(self.paths.log, ignore_errors=True)
        super()._make_directories()
        if rights.ordinary(self.paths):
            for directory in (self.paths.run, self.paths.hosts):
                directory.chmod(0o711)

    def _bring_up(self, report: Report) -> None:
        began = time.monotonic()
        if not rights.ordinary(self.paths):
            report("the checkout cannot be read by other users: nova-compute and QEMU run as root")
        bringup.run(self, report)
        report(f"the cloud is ready after {time.monotonic() - began:.0f} s")

    def _take_down(self) -> None:
        """All at one time: nothing here has anything to save."""
        process.end_all([one for node in self.nodes for one in inhabitants(node.marker)])
        super()._take_down()
