"""The cloud's nodes: one for control, two that run servers."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil

from labkit.cloud import rights
from labkit.host import Host
from labkit.node import Node
from labkit.paths import CHECKOUT
from labkit.sandbox import Binds

KVM = pathlib.Path("/dev/kvm")
# Open vSwitch, and libvirt when it asks Open vSwitch, have these places compiled in.
SWITCH_BINDS: Binds = (
    ("ovs-run", "/run/openvswitch"),
    ("ovs-etc", "/etc/openvswitch"),
    ("ovs-log", "/var/log/openvswitch"),
)


class CloudNode(Node):
    """What all three have: a place for configuration, one for Nova's files, a switch."""

    @property
    def conf(self) -> pathlib.Path:
        """Configuration files, one directory a service."""
        return self.base / "conf"

    @property
    def data(self) -> pathlib.Path:
        """What services keep."""
        return self.base / "data"

    @property
    def records(self) -> pathlib.Path:
        """Which processes are the node's services."""
        return self.base / "run"

    @property
    def nova(self) -> pathlib.Path:
        """Nova's ``state_path``: one path for all nodes, as live migration wants it, with each node's own directory there."""
        return self.paths.run / "nova"

    @property
    def nova_files(self) -> pathlib.Path:
        """The same directory, seen from outside."""
        return self.base / "nova"

    @property
    def binds(self) -> Binds:
        """Those of the switch, and Nova's."""
        return (*SWITCH_BINDS, ("nova", str(self.nova)))


class Control(CloudNode):
    """The node with the APIs."""

    @property
    def binds(self) -> Binds:
        """The DHCP agent names its network namespaces there: they must show on no other node."""
        return (*super().binds, ("netns", "/run/netns"))

    def up(self) -> None:
        """Make the node's directories and namespaces."""
        for directory in (self.base, self.run_dir):
            directory.mkdir(mode=0o700, parents=True)
        for directory in (self.conf, self.data, self.records):
            directory.mkdir()
        self._own_libvirt()
        self.sandbox.create()

    def _own_libvirt(self) -> None:
        """Nothing of libvirt runs here; its places are the node's own all the same."""
        for name in ("swtpm-localca.conf", "swtpm-localca.options", "swtpm_setup.conf"):
            (self.base / name).touch()


@dataclasses.dataclass(frozen=True)
class Compute(CloudNode, Host):
    """A host of the lab that runs nova-compute."""

    migrates: bool = True

    @property
    def installed(self) -> bool:
        """It is, where that is possible."""
        return rights.ordinary(self.paths)

    @property
    def binds(self) -> Binds:
        """Those of every node, its own keys for ssh, and an /etc of its own: it has users that the machine has not."""
        etc = rights.BINDS if self.installed else ()
        return (*super().binds, ("ssh", "/etc/ssh"), *etc)

    def _furnish(self) -> None:
        """What the install guide has an operator do before nova-compute is configured."""
        for directory in (self.conf, self.data, self.records, self.nova_files):
            directory.mkdir()
        if not self.installed:
            return
        rights.furnish(self.base, self.conf)
        rights.allow_freezes()
        rights.give(rights.NOVA_ID, self.nova_files)
        localca = self.base / "swtpm-localca"
        localca.mkdir()
        shutil.chown(localca, rights.TPM, rights.TPM)

    def _cover(self) -> None:
        """No host has KVM: where QEMU found it and its user may not open it, libvirtd asks QEMU for its abilities anew at
        each turn, some seconds every time."""
        if not self.installed or not KVM.exists():
            return
        closed = self.base / "no-kvm"
        closed.touch(mode=0o000)
        closed.chmod(0o000)
        self.run(["mount", "--bind", closed, KVM])

    def up(self, vendor_config: pathlib.Path) -> None:
        """As any host, with the places that systemd-tmpfiles makes on an installed one."""
        super().up(vendor_config)
        if self.installed:
            self.run(["systemd-tmpfiles", "--create", self._tmpfiles()])

    def _tmpfiles(self) -> pathlib.Path:
        """The project's file, with this host's places."""
        text = (CHECKOUT / "etc" / "tmpfiles.d" / "nova-trusted-clone.conf").read_text()
        for place, own in (
            ("/var/lib/nova-trusted-clone-ram", self.memory_backing_dir),
            ("/var/lib/nova-trusted-clone", self.state_path),
        ):
            text = re.sub(rf"{place}(?=[ /])", str(own), text)
        path = self.conf / "tmpfiles.conf"
        path.write_text(text)
        return path
