"""A guest's definition for libvirt."""

from __future__ import annotations

import dataclasses
import pathlib
from xml.sax.saxutils import escape, quoteattr

from labkit.guest.image import BootImage


@dataclasses.dataclass(frozen=True)
class Disk:
    """A disk by its target device, in a format of qemu-img's."""

    target: str
    path: pathlib.Path
    size_bytes: int
    image_format: str = "qcow2"


@dataclasses.dataclass(frozen=True)
class GuestDefinition:
    """Everything that a guest is made of.

    :ivar vtpm_secret: UUID of the libvirt secret that encrypts its vTPM's state
    :ivar genid: whether it has a generation id; libvirt makes the value
    :ivar pages: 4 KiB pages that the guest keeps under check; 0: half of its memory
    :ivar page_rate: pages that it changes in a second
    :ivar touched: it writes once to all of its memory before it is ready, as a server does that has been up for a while
    :ivar io_thread: a thread of its own of QEMU's serves its disks
    :ivar beat: a second serial port, on which the guest puts a dot every 20 ms
    """

    name: str
    uuid: str
    memory_mib: int
    boot: BootImage
    serial: pathlib.Path
    beat: pathlib.Path | None = None
    vcpus: int = 1
    disks: tuple[Disk, ...] = ()
    macs: tuple[str, ...] = ()
    bridge: str = "br0"
    vtpm: bool = True
    vtpm_secret: str | None = None
    genid: bool = True
    video: bool = False
    io_thread: bool = False
    pages: int = 0
    page_rate: int = 2000
    touched: bool = False
    machine: str = "q35"

    @property
    def command_line(self) -> str:
        """Of the guest's kernel; ``quiet`` keeps its messages out of the guest program's lines."""
        asked = f"np={self.pages} rate={self.page_rate} touch={int(self.touched)}"
        return f"console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on {asked}"


_EMULATOR = "type='emulator' version='2.0'"


def to_xml(guest: GuestDefinition) -> str:
    """The domain's XML for libvirt on TCG."""
    devices = [
        "<emulator>/usr/bin/qemu-system-x86_64</emulator>",
        *(_disk(disk, io_thread=guest.io_thread) for disk in guest.disks),
        *(_nic(mac, guest.bridge) for mac in guest.macs),
        _serial(guest.serial, 0),
        *([_serial(guest.beat, 1)] if guest.beat else []),
        *(
            [f"<tpm model='tpm-crb'><backend {_EMULATOR}>{_encryption(guest)}</backend></tpm>"]
            if guest.vtpm
            else []
        ),
        *(["<video><model type='vga' vram='16384'/></video>"] if guest.video else []),
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "<memballoon model='none'/>",
    ]
    return "\n".join(
        [
            "<domain type='qemu'>",
            f"<name>{escape(guest.name)}</name><uuid>{escape(guest.uuid)}</uuid>",
            *(["<genid/>"] if guest.genid else []),
            f"<memory unit='MiB'>{guest.memory_mib}</memory>",
            f"<vcpu>{guest.vcpus}</vcpu>",
            *(["<iothreads>1</iothreads>"] if guest.io_thread else []),
            f"<os><type arch='x86_64' machine={quoteattr(guest.machine)}>hvm</type>",
            f"<kernel>{escape(str(guest.boot.kernel))}</kernel>",
            f"<initrd>{escape(str(guest.boot.initramfs))}</initrd>",
            f"<cmdline>{escape(guest.command_line)}</cmdline></os>",
            "<features><acpi/><apic/></features>",
            "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>",
            "<clock offset='utc'/>",
            "<on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>",
            "<devices>",
            *devices,
            "</devices>",
            "</domain>",
        ]
    )


def _encryption(guest: GuestDefinition) -> str:
    return (
        f"<encryption secret={quoteattr(guest.vtpm_secret)}/>"
        if guest.vtpm_secret is not None
        else ""
    )


def _disk(disk: Disk, *, io_thread: bool) -> str:
    served = " iothread='1'" if io_thread else ""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type={quoteattr(disk.image_format)}{served}/>"
        f"<source file={quoteattr(str(disk.path))}/><target dev={quoteattr(disk.target)} bus='virtio'/></disk>"
    )


def _nic(mac: str, bridge: str) -> str:
    return (
        f"<interface type='bridge'><source bridge={quoteattr(bridge)}/><mac address={quoteattr(mac)}/>"
        "<model type='virtio'/></interface>"
    )


def _serial(path: pathlib.Path, port: int) -> str:
    return (
        f"<serial type='file'><source path={quoteattr(str(path))}/>"
        f"<target type='isa-serial' port='{port}'/></serial>"
    )
