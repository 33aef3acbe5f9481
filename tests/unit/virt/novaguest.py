"""A guest definition as Nova 34 makes it, by Nova's own classes (nova.virt.libvirt.config)."""

from __future__ import annotations

from nova.virt.libvirt import config
from nova.virt.libvirt.config import LibvirtConfigGuestDisk, LibvirtConfigGuestInterface

SERVER = "b5b0a1f4-52a5-4a3a-9d0e-5f8c2f3c0001"
NAME = "instance-0000000a"
DIRECTORY = f"/var/lib/nova/instances/{SERVER}"
SECRET = "0d3b0b9e-8f0c-4d6c-8f4f-7f7c6f1b2a3c"
MACS = ("fa:16:3e:00:00:01", "fa:16:3e:00:00:02")


class _Vtpm:
    version = "2.0"
    model = "tpm-crb"


def guest(machine: str = "pc-i440fx-7.2") -> config.LibvirtConfigGuest:
    """Two ports, a root disk, an ephemeral one, a config drive, a console with its log, a vTPM."""
    made = config.LibvirtConfigGuest()
    made.virt_type, made.name, made.uuid = "kvm", NAME, SERVER
    made.memory, made.vcpus = 262144, 2
    made.os_type, made.os_mach_type = "hvm", machine
    made.features = [config.LibvirtConfigGuestFeatureACPI()]
    made.metadata = [_metadata()]
    for device in (
        disk("vda", "disk"),
        disk("vdb", "disk.eph0"),
        disk("hda", "disk.config", "raw", "cdrom"),
        *(port(mac, f"tap{number}") for number, mac in enumerate(MACS)),
        console(),
        config.LibvirtConfigGuestVTPM(_Vtpm, SECRET),
    ):
        made.add_device(device)
    return made


def disk(
    target: str, name: str, image_format: str = "qcow2", device: str = "disk"
) -> LibvirtConfigGuestDisk:
    """An image file."""
    made = LibvirtConfigGuestDisk()
    made.source_type, made.source_device, made.source_path = "file", device, f"{DIRECTORY}/{name}"
    made.driver_name, made.driver_format = "qemu", image_format
    made.target_dev, made.target_bus = target, "ide" if device == "cdrom" else "virtio"
    return made


def port(mac: str, tap: str) -> LibvirtConfigGuestInterface:
    """A port on Open vSwitch."""
    made = LibvirtConfigGuestInterface()
    made.net_type, made.mac_addr, made.model = "bridge", mac.upper(), "virtio"
    made.source_dev, made.target_dev = "br-int", tap
    made.vporttype = "openvswitch"
    made.add_vport_param("interfaceid", "5f0c3d0e-0000-4000-8000-000000000001")
    return made


def console() -> config.LibvirtConfigGuestSerial:
    """A serial line with its log."""
    made = config.LibvirtConfigGuestSerial()
    made.type = "pty"
    made.log = config.LibvirtConfigGuestCharDeviceLog()
    made.log.file = f"{DIRECTORY}/console.log"
    return made


def _metadata() -> config.LibvirtConfigGuestMetaNovaInstance:
    made = config.LibvirtConfigGuestMetaNovaInstance()
    made.package, made.name, made.creationTime = "34.0.0", "web-1", 0
    made.roottype = made.rootid = None
    return made
