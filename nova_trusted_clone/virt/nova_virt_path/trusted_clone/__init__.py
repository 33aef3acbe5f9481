"""``nova.virt.trusted_clone``: what ``compute_driver = trusted_clone.LibvirtDriver`` names, or ``.XenLibvirtDriver``."""

from nova_trusted_clone.virt.libvirt_driver import LibvirtDriver
from nova_trusted_clone.virt.xen.driver import XenLibvirtDriver

__all__ = ["LibvirtDriver", "XenLibvirtDriver"]
