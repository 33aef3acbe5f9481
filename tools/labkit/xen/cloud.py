"""A cloud whose compute hosts are the two Xen hosts: the control node of the lab's cloud, and a nova-compute in each dom0.

Servers have no network: a dom0 here runs no agent of Neutron's. All else is as in any cloud, from Glance to Placement.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from openstack.connection import Connection

from labkit import lab, process
from labkit.cloud import bringup, clients, ini, network, nova, settings, steps, trusted
from labkit.cloud.nodes import Control
from labkit.cloud.steps import Step
from labkit.errors import LabError
from labkit.guest import bootdisk
from labkit.guest import image as guest_image
from labkit.lab import Report
from labkit.paths import LabPaths
from labkit.sandbox import inhabitants
from labkit.xen import guests, tap
from labkit.xen.commands import CLOUD_DIRECTORY
from labkit.xen.fleet import LIMITS, VENV_PYTHON, Fleet
from labkit.xen.hosts import XenHosts
from labkit.xen.machine import DOM0_MIB, Machine

MANAGEMENT = ("10.77.0.11", "10.77.0.12")
DRIVER = "trusted_clone.XenLibvirtDriver"
FLAVOR = "xen"
MEMORY_MIB = 128
IMAGE = "xen-guest"
# One that brings no kernel: it boots from its disk.
BOOTING_IMAGE = "xen-guest-disk"
# Disks are left small: each block is hashed on an emulated processor. The second has boot files in front.
DISK_MIB = 16
BOOTING_DISK_MIB = 64
# Of a guest: its memory under check, and what it reads of its disk.
ASKED = "np=4000 rate=100 diskrate=2 diskblocks=256 rest=20"
CONFIG = "/etc/nova/nova-compute.conf"
STATE = pathlib.Path("/var/lib/nova")
LOG = "/var/log/nova-compute.log"
PID = "/run/nova-compute.pid"
# Python's start alone takes a minute where each instruction is emulated.
COMPUTE_LIMIT_S = 600.0
PATIENCE_S = 300
REPORT_S = 30
# Xen itself and what it keeps of each domain.
XEN_MIB = 256
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class XenNode:
    """A Xen host as Nova's configuration sees it."""

    address: str
    nova: pathlib.Path = STATE


@dataclasses.dataclass(frozen=True)
class XenCloud:
    """A control node and two Xen hosts, up or not."""

    paths: LabPaths
    control: Control
    hosts: XenHosts
    plain: bool = False

    @classmethod
    def at(cls, paths: LabPaths) -> XenCloud:
        """The cloud whose place is ``paths``."""
        control = Control(paths, "control", settings.CONTROL)
        return cls(paths, control, XenHosts.at(paths, MANAGEMENT))

    @classmethod
    def from_environment(cls) -> XenCloud:
        """The cloud of the lab that ``LAB_DIR`` names."""
        places = LabPaths.from_environment()
        return cls.at(LabPaths(places.root / CLOUD_DIRECTORY, places.cache))

    @property
    def fleet(self) -> Fleet:
        """The operator of both hosts, as ``enrol`` made it."""
        return Fleet.opened(self.hosts, self._operator)

    @property
    def _operator(self) -> pathlib.Path:
        return self.paths.hosts / "operator"

    # -- asking it ----------------------------------------------------------------------------------------------------

    def ask(self, question: Callable[[Connection], T], user: str = settings.ADMIN) -> T:
        """What ``question`` returns for a connection to the cloud as ``user``."""
        return clients.ask(self.control, question, user)

    # -- up and down --------------------------------------------------------------------------------------------------

    def up(self, report: Report) -> None:
        """Start all of it; when a step fails, take down what was started and say why."""
        began = time.monotonic()
        if inhabitants(self.control.marker):
            raise LabError(f"the cloud in {self.paths.root} is up already")
        self.down()
        for directory in (self.paths.run, self.paths.log, self.paths.hosts, self.paths.cache):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            steps.run(self._plan(report), report, bringup.WORKERS)
        except BaseException:
            self.down()
            raise
        report(f"the cloud on Xen is ready after {time.monotonic() - began:.0f} s")

    def down(self) -> None:
        """End and remove everything but caches and logs; harmless when repeated."""
        process.end_all(list(inhabitants(self.control.marker)))
        if self.hosts.is_up:
            for machine in self.hosts.machines:
                self._keep_log(machine)
        self.hosts.down()
        lab.keep_logs(self.control, self.paths.log)
        self.control.down()
        for directory in (self.paths.hosts, self.paths.vendor_ca, self.paths.run):
            shutil.rmtree(directory, ignore_errors=True)

    def _keep_log(self, machine: Machine) -> None:
        (self.paths.log / f"nova-compute-{machine.name}.log").write_text(compute_log(machine))

    def _plan(self, report: Report) -> list[Step]:
        control = self.control
        return [
            *bringup.ground(self),
            # What emulates takes both processors for a minute: whoever waits for an answer meanwhile may wait in vain.
            Step(bringup.HOST_TPMS, partial(self._start_hosts, report), ("nova-api", "neutron")),
            *bringup.services(control),
            *bringup.nova_services(self),
            *bringup.neutron_services(self, ()),
            *bringup.wares(self),
            Step("image", self._upload_image, ("glance",), "image"),
            Step("flavor", self._make_flavor, ("nova-api",)),
            *(
                Step(
                    f"compute-{machine.name}",
                    partial(self._start_compute, machine),
                    ("enrolment", "trusted-conductor"),
                )
                for machine in self.hosts.machines
            ),
            Step(
                "hosts-known",
                self._wait_for_hosts,
                tuple(f"compute-{machine.name}" for machine in self.hosts.machines),
                "both hosts are known, and can receive clones",
            ),
        ]

    def _start_hosts(self, report: Report) -> None:
        self.hosts.up(report, self._plug)

    def _plug(self, machine: Machine) -> int:
        name = f"{network.MANAGEMENT}-{machine.name.rpartition('-')[2]}"
        return tap.plug(self.control, network.MANAGEMENT, name)

    @property
    def control_options(self) -> ini.Sections:
        """A host that is slow is not down."""
        return {
            "DEFAULT": {"service_down_time": PATIENCE_S, "rpc_response_timeout": PATIENCE_S},
        }

    def enrol(self) -> None:
        """Make the operator's authority and certify both hosts."""
        fleet = Fleet(self.hosts, self._operator)
        # Xen has no generation id for PVH and PV guests.
        fleet.enrol(require_generation_id=False)

    # -- nova-compute -------------------------------------------------------------------------------------------------

    def _start_compute(self, machine: Machine) -> None:
        sections = ini.merge(
            nova.common(XenNode(machine.management)),
            self._compute(machine),
            {"trusted_clone": self._trusted_clone(machine)},
        )
        machine.run(["mkdir", "-p", "/etc/nova", STATE / "lock", STATE / "instances"])
        machine.run(["tee", CONFIG], script=ini.render(sections))
        start_compute(machine)

    def _trusted_clone(self, machine: Machine) -> dict[str, str]:
        return {
            **self.fleet.options(machine, LIMITS),
            "order_limit_s": str(2 * PATIENCE_S),
            # A new clone's disks are its own after minutes; until then it cannot be stopped. Below rpc_response_timeout.
            "protect_limit_s": str(PATIENCE_S - 60),
            # The emulated processor cannot emulate the time stamp counter once more.
            "xen_tsc_mode": "native",
        }

    @staticmethod
    def _compute(machine: Machine) -> ini.Sections:
        helper = f"/opt/venv/bin/privsep-helper --config-file {CONFIG}"
        return {
            "DEFAULT": {
                "host": machine.name,
                "compute_driver": DRIVER,
                "resume_guests_state_on_host_boot": False,
                "reserved_host_memory_mb": DOM0_MIB + XEN_MIB,
                "ram_allocation_ratio": 1,
                "cpu_allocation_ratio": 16,
                "shutdown_timeout": 3,
                "rpc_response_timeout": PATIENCE_S,
                # What is done again and again is costly where each instruction is emulated.
                "report_interval": REPORT_S,
                "update_resources_interval": 10 * REPORT_S,
            },
            # A beat that is late on an emulated processor is no broken connection.
            "oslo_messaging_rabbit": {"heartbeat_timeout_threshold": PATIENCE_S},
            # Guests on dom0's own processor damage its programs (doc/source/lab.rst).
            "compute": {"cpu_shared_set": "1-2"},
            "libvirt": {"images_type": "qcow2"},
            "vnc": {"enabled": False},
            "nova_sys_admin": {"helper_command": helper},
            "privsep_osbrick": {"helper_command": helper},
        }

    # -- what it offers -----------------------------------------------------------------------------------------------

    def _make_flavor(self) -> None:
        """Its disk is as large as the image's: a whole GiB would be minutes of hashing on an emulated processor."""
        policies = nova.directory(self.control) / "policy.d" / "zero-disk.json"
        policies.write_text(json.dumps({"os_compute_api:servers:create:zero_disk_flavor": "@"}))

        def make(admin: Connection) -> None:
            admin.compute.create_flavor(name=FLAVOR, ram=MEMORY_MIB, vcpus=1, disk=0)

        self.ask(make)

    def _upload_image(self) -> None:
        boot = guest_image.build(self.paths.cache)
        disk = self.paths.cache / "empty.raw"
        with disk.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        # What is behind its boot files is what it writes to and checks.
        booting = self.paths.cache / "booting.raw"
        shutil.copyfile(bootdisk.build(self.paths.cache), booting)
        os.truncate(booting, BOOTING_DISK_MIB << 20)

        def upload(admin: Connection) -> None:
            kernel = _upload(admin, f"{IMAGE}-kernel", boot.kernel, ("aki", "aki"))
            ramdisk = _upload(admin, f"{IMAGE}-ramdisk", boot.initramfs, ("ari", "ari"))
            line = f"{guests.COMMAND_LINE} {ASKED}"
            wishes = {"kernel_id": kernel.id, "ramdisk_id": ramdisk.id, "os_command_line": line}
            _upload(admin, IMAGE, disk, ("raw", "bare"), **wishes)
            _upload(admin, BOOTING_IMAGE, booting, ("raw", "bare"))

        self.ask(upload)

    def _wait_for_hosts(self) -> None:
        """Until the scheduler can place clones on both hosts.

        :raises LabError: with the ends of their logs
        """
        names = {machine.name for machine in self.hosts.machines}

        def known() -> bool:
            return names <= self.ask(_receivers)

        if not process.wait_until(known, COMPUTE_LIMIT_S, 3.0):
            told = "\n".join(f"{m.name}: {compute_log(m)[-1500:]}" for m in self.hosts.machines)
            raise LabError(f"not both hosts can receive clones after {COMPUTE_LIMIT_S:g} s: {told}")


def _upload(
    admin: Connection, name: str, path: pathlib.Path, formats: tuple[str, str], **properties: str
) -> Any:
    """:param formats: of the disk and of the container; Glance looks whether a file is what it is said to be"""
    disk_format, container_format = formats
    return admin.create_image(
        name,
        filename=str(path),
        disk_format=disk_format,
        container_format=container_format,
        visibility="public",
        wait=True,
        **properties,
    )


def _receivers(admin: Connection) -> set[str]:
    """Hosts that have told Placement that they receive clones, and that Nova has mapped to a cell."""
    mapped = {one.name for one in admin.compute.hypervisors()}
    return {
        provider.name
        for provider in admin.placement.resource_providers()
        if provider.name in mapped and trusted.TRAIT in _traits(admin, provider.id)
    }


def _traits(admin: Connection, provider: str) -> list[str]:
    place = f"/resource_providers/{provider}/traits"
    told: list[str] = admin.placement.get(place, microversion="1.6").json()["traits"]
    return told


def start_compute(machine: Machine) -> None:
    """Start a host's nova-compute; one that runs already is ended first."""
    former = f"[ ! -e {PID} ] || {{ kill $(cat {PID}); tail --pid=$(cat {PID}) -f /dev/null; }}"
    command = f"setsid {VENV_PYTHON} /opt/venv/bin/nova-compute --config-file {CONFIG}"
    begin = f"{command} >>{LOG} 2>&1 </dev/null & echo $! >{PID}"
    machine.run(["bash", "-c", f"{former}\n{begin}"])


def compute_log(machine: Machine) -> str:
    """What a host's nova-compute has said; nothing, where it was never started."""
    return machine.run(["bash", "-c", f"[ ! -e {LOG} ] || cat {LOG}"])
