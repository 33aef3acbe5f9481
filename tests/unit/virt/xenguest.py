"""A guest definition as Nova 34 makes it with ``virt_type=xen``, before it is one for Xen."""

from __future__ import annotations

from nova.virt.libvirt import config

from tests.unit.virt import novaguest
from tests.unit.virt.novaguest import DIRECTORY, MACS, NAME, SERVER


def guest(*, kernel: bool = False, graphics: bool = False) -> config.LibvirtConfigGuest:
    """A root disk, an ephemeral one, a config drive, two ports, a console, and what Nova gives to any guest."""
    made = config.LibvirtConfigGuest()
    made.virt_type, made.name, made.uuid = "xen", NAME, SERVER
    made.memory, made.vcpus = 131072, 2
    made.os_type = "hvm"
    if kernel:
        made.os_kernel, made.os_initrd = f"{DIRECTORY}/kernel", f"{DIRECTORY}/ramdisk"
        made.os_cmdline = "console=hvc0"
    else:
        made.os_boot_dev = ["hd"]
    made.features = [config.LibvirtConfigGuestFeatureACPI()]
    made.clock = config.LibvirtConfigGuestClock()
    made.metadata = [novaguest._metadata()]
    devices = [disk("xvda", "disk"), disk("xvdb", "disk.eph0")]
    devices += [disk("xvdc", "disk.config", "raw", "cdrom")]
    devices += [_port(mac, f"tap{number}") for number, mac in enumerate(MACS)]
    console = config.LibvirtConfigGuestConsole()
    console.type = "pty"
    balloon = config.LibvirtConfigMemoryBalloon()
    balloon.model, balloon.period = "virtio", 10
    devices += [console, balloon, config.LibvirtConfigGuestRng()]
    if graphics:
        display = config.LibvirtConfigGuestGraphics()
        display.type, display.listen = "vnc", "192.0.2.7"
        devices += [display, config.LibvirtConfigGuestVideo()]
    for device in devices:
        made.add_device(device)
    return made


def disk(
    target: str, name: str, image_format: str = "qcow2", device: str = "disk"
) -> config.LibvirtConfigGuestDisk:
    """An image file on Xen's bus."""
    made = novaguest.disk(target, name, image_format, device)
    made.target_bus = "xen"
    made.driver_cache, made.driver_io = "none", "native"
    return made


def _port(mac: str, tap: str) -> config.LibvirtConfigGuestInterface:
    made = novaguest.port(mac, tap)
    made.model = None
    return made
