"""Guests on a host: start one, find it, end it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import libvirt

from labkit import process
from labkit.console import Console, Line
from labkit.domain import Disk, GuestDefinition, to_xml
from labkit.errors import LabError
from labkit.guest import image
from labkit.host import Host

READY_LIMIT_S = 120.0


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a guest shall be; the rest is chosen.

    :ivar disks: sizes in MiB, one for each disk (vda, vdb, ...)
    :ivar vtpm_secret: UUID of a libvirt secret of the host that encrypts the vTPM's state
    :ivar pages: pages of 4 KiB under check; 0: half of the memory
    :ivar touched: whether it writes once to all of its memory
    """

    name: str = "web-1"
    memory_mib: int = 256
    vcpus: int = 1
    disks: tuple[int, ...] = (64,)
    disk_format: str = "qcow2"
    nics: int = 1
    vtpm: bool = True
    vtpm_secret: str | None = None
    genid: bool = True
    video: bool = False
    io_thread: bool = False
    pages: int = 0
    page_rate: int = 2000
    touched: bool = False


@dataclasses.dataclass(frozen=True)
class Guest:
    """A guest that was started on ``host``."""

    host: Host
    definition: GuestDefinition

    @property
    def name(self) -> str:
        """Its name for libvirt."""
        return self.definition.name

    @property
    def uuid(self) -> str:
        """Its UUID for libvirt."""
        return self.definition.uuid

    @property
    def console(self) -> Console:
        """What it prints."""
        return Console(self.definition.serial)

    @property
    def directory(self) -> pathlib.Path:
        """Where its disks and serial files are."""
        return self.definition.serial.parent

    def domain_xml(self) -> str:
        """Its definition as libvirt has it now."""
        with connected(self.host) as connection:
            xml: str = connection.lookupByUUIDString(self.uuid).XMLDesc(0)
            return xml

    def wait_ready(self, timeout_s: float = READY_LIMIT_S) -> Line:
        """Wait until it has filled its memory and all its parts work; return its READY line.

        :raises LabError: when a part that it was given is missing
        """
        ready = self.console.wait_for("READY", timeout_s=timeout_s)
        wanted = self.definition
        found = {key: ready.number(key) for key in ("disks", "nics", "tpm", "genid")}
        expected = {
            "disks": len(wanted.disks),
            "nics": len(wanted.macs),
            "tpm": int(wanted.vtpm),
            "genid": int(wanted.genid),
        }
        if found != expected:
            raise LabError(f"guest {self.name} found {found} of itself, it was given {expected}")
        return ready

    def destroy(self) -> None:
        """End it and remove its files; harmless when it has ended."""
        with connected(self.host) as connection, contextlib.suppress(libvirt.libvirtError):
            connection.lookupByUUIDString(self.uuid).destroy()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def connected(host: Host) -> Iterator[Any]:
    """A libvirt connection to ``host`` for a block of code."""
    connection = libvirt.open(host.uri)
    try:
        yield connection
    finally:
        connection.close()


def start(host: Host, wish: Wish) -> Guest:
    """Start a guest on ``host``; it boots while the caller goes on (``Guest.wait_ready``)."""
    boot = image.build(host.paths.cache)
    directory = host.base / "guests" / wish.name
    if directory.exists():
        raise LabError(f"there is a guest {wish.name} on {host.name} already")
    directory.mkdir(parents=True)
    disks = tuple(
        Disk(f"vd{chr(ord('a') + i)}", directory / f"disk{i}.img", size << 20, wish.disk_format)
        for i, size in enumerate(wish.disks)
    )
    for disk in disks:
        command: list[str | os.PathLike[str]] = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            disk.image_format,
            disk.path,
            str(disk.size_bytes),
        ]
        process.run(command)
    definition = GuestDefinition(
        name=wish.name,
        uuid=str(uuid.uuid4()),
        memory_mib=wish.memory_mib,
        boot=boot,
        serial=directory / "serial.log",
        beat=directory / "beat.log",
        vcpus=wish.vcpus,
        disks=disks,
        macs=tuple(new_mac() for _ in range(wish.nics)),
        vtpm=wish.vtpm,
        vtpm_secret=wish.vtpm_secret,
        genid=wish.genid,
        video=wish.video,
        io_thread=wish.io_thread,
        pages=wish.pages,
        page_rate=wish.page_rate,
        touched=wish.touched,
    )
    try:
        with connected(host) as connection:
            connection.createXML(to_xml(definition))
    except libvirt.libvirtError as error:
        shutil.rmtree(directory)
        raise LabError(f"libvirt of {host.name} did not start {wish.name}: {error}") from error
    return Guest(host, definition)


def new_mac() -> str:
    """A MAC address in the range that QEMU and libvirt use."""
    tail = uuid.uuid4().bytes[:3]
    return "52:54:00:" + ":".join(f"{octet:02x}" for octet in tail)
