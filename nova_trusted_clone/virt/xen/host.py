"""Nova's view of a libvirt host, where libxl's driver tells something else than QEMU's.

Leans on ``nova.virt.libvirt.host.Host``.
"""

from __future__ import annotations

from typing import Any

from nova.virt.libvirt import host

from nova_trusted_clone.virt.xen.domain import XenGuest

# The domain that nova-compute itself runs in; libvirt lists it among the others.
DOM0 = 0
KIB = 1024


class XenHost(host.Host):  # type: ignore[misc]
    """A host whose first domain is no server, and whose memory and processors Xen has, not dom0's kernel."""

    def list_instance_domains(self, only_running: bool = True) -> list[Any]:
        """As Nova's, without dom0."""
        found = super().list_instance_domains(only_running=only_running)
        return [domain for domain in found if domain.ID() != DOM0]

    def get_guest(self, instance: Any) -> XenGuest:
        """As Nova's; what is attached to the guest is put as libxl knows it."""
        return XenGuest(self._get_domain(instance))

    def get_available_cpus(self) -> set[int]:
        """The host's processors, by number. libxl's driver has no map of them: each can run a guest."""
        return set(range(self._get_hardware_info()[2]))

    def get_online_cpus(self) -> set[int]:
        """The same; Xen takes none offline by itself."""
        return self.get_available_cpus()

    def get_memory_mb_used(self) -> int:
        """MiB that Xen has given to domains, dom0 among them; dom0's own /proc/meminfo knows nothing of the others."""
        free_bytes = self.get_connection().getFreeMemory()
        return int(self.get_memory_mb_total()) - int(free_bytes) // KIB // KIB
