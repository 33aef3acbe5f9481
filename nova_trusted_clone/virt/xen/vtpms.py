"""The vTPM that this host keeps for a server, made when the server is.

A Xen guest carries none that it sees (``hypervisor.xen.vtpms``): its AK vouches for the server when that is cloned.
"""

from __future__ import annotations

from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.hypervisor.xen.vtpms import HostVtpms


def make(kept: HostVtpms, host: Host, server_uuid: str) -> None:
    """Make a server's, with PCR 1-7 of this host; nothing where it has one.

    :raises VtpmError: it cannot be made
    """
    if not kept.has(server_uuid):
        instance = host.vtpms.new(server_uuid, host.local.inherited())
        kept.keep(server_uuid, instance.hand_over())
