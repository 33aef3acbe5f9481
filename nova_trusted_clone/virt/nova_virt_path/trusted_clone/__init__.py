"""``nova.virt.trusted_clone``: what ``compute_driver = trusted_clone.LibvirtDriver`` names."""

from nova_trusted_clone.virt.libvirt_driver import LibvirtDriver

__all__ = ["LibvirtDriver"]
