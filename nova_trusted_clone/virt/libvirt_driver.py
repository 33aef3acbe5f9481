"""``nova.virt.trusted_clone.LibvirtDriver``: Nova's libvirt driver that receives and gives clones."""

from __future__ import annotations

from nova.virt.libvirt import driver

from nova_trusted_clone.virt.mixin import TrustedCloneMixin


class LibvirtDriver(TrustedCloneMixin, driver.LibvirtDriver):  # type: ignore[misc]
    """All of it is inherited."""
