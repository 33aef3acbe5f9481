"""Which hypervisor's adapter speaks to a libvirt: its URI says it.

An adapter is imported when it is asked for: a guard must watch soon, and needs one of them.
"""

from __future__ import annotations

import pathlib
import urllib.parse

from nova_trusted_clone.ports import DestinationHypervisor, SourceHypervisor

# Below the state path: a Xen host keeps its domains' vTPMs.
VTPMS = "domain-vtpms"


def source(uri: str, state_path: pathlib.Path) -> SourceHypervisor:
    """What freezes servers of the libvirt at ``uri``, and takes freezes off them.

    :param state_path: the service's own directory
    """
    if is_xen(uri):
        from nova_trusted_clone.hypervisor.xen.source import XenSource
        from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms

        return XenSource(uri, HostVtpms(state_path / VTPMS))
    from nova_trusted_clone.hypervisor.qemu.source import QemuSource

    return QemuSource(uri)


def destination(
    uri: str, state_path: pathlib.Path, memory_backing_dir: pathlib.Path
) -> DestinationHypervisor:
    """What restores clones at the libvirt at ``uri``.

    :param state_path: the service's own directory
    :param memory_backing_dir: as in QEMU's libvirt's qemu.conf; Xen has none
    """
    if is_xen(uri):
        from nova_trusted_clone.hypervisor.xen.destination import XenDestination
        from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms

        return XenDestination(uri, HostVtpms(state_path / VTPMS))
    from nova_trusted_clone.hypervisor.qemu.destination import QemuDestination

    return QemuDestination(uri, memory_backing_dir)


def watch(uri: str) -> None:
    """Look after what a libvirt does not notice after a freeze, for the rest of the process; QEMU's notices all of it."""
    if is_xen(uri):
        from nova_trusted_clone.hypervisor.xen.ended import Watch

        Watch(uri).start()


def is_xen(uri: str) -> bool:
    """Whether it is libxl's driver (``xen:///system``)."""
    return urllib.parse.urlsplit(uri).scheme.partition("+")[0] == "xen"
