"""A host's namespaces: mounts, network and name, held by one sleeping process.

Other programs of the host join through ``nsenter``. What libvirt and swtpm keep at fixed places is bound over by the host's
own directories, so that several hosts run on one machine and none touches the machine's own libvirt.

Every process inside sees a tmpfs whose name is this host's (``marker``) at /run/libvirt. So ``down`` finds what belongs to the
lab by a look into /proc, whatever was killed and whichever record was lost.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TypeAlias

from labkit import process
from labkit.errors import LabError
from labkit.process import Process

# The host's own directory (under its base) over the place that the program has compiled in.
Binds: TypeAlias = tuple[tuple[str, str], ...]
BOUND_DIRECTORIES: Binds = (
    ("etc", "/etc/libvirt"),
    ("var", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("cache", "/var/cache/libvirt"),
    ("swtpm-log", "/var/log/swtpm"),
    ("swtpm-localca", "/var/lib/swtpm-localca"),
)
BOUND_FILES: Binds = (
    ("swtpm-localca.conf", "/etc/swtpm-localca.conf"),
    ("swtpm-localca.options", "/etc/swtpm-localca.options"),
    ("swtpm_setup.conf", "/etc/swtpm_setup.conf"),
)
START_LIMIT_S = 10.0
# The product's bulk ports, as etc/sysctl.d keeps them free on a real host: no connection of the host's own begins at one.
RESERVED_PORTS = "49300-49363"


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """The namespaces of one host.

    :ivar base: the host's directory, which holds what is bound over and the holder's record
    :ivar marker: the tmpfs's name, unique to this host of this lab
    :ivar further: directories to be bound over besides those that every host has
    """

    base: pathlib.Path
    marker: str
    hostname: str
    further: Binds = ()

    @property
    def _directories(self) -> Binds:
        return (*BOUND_DIRECTORIES, *self.further)

    @property
    def _record(self) -> pathlib.Path:
        return self.base / "holder.json"

    @property
    def holder(self) -> Process:
        """The process that keeps the namespaces.

        :raises LabError: when the host is not up
        """
        found = Process.load(self._record)
        if found is None or not found.alive:
            raise LabError(f"host {self.hostname} is not up; tools/lab --help says what starts it")
        return found

    def enter(self) -> list[str]:
        """The words to put before a command so that it runs inside. It keeps its pid: nsenter execs."""
        return ["nsenter", f"--target={self.holder.pid}", "--mount", "--net", "--uts", "--"]

    def create(self) -> None:
        """Make the namespaces and the mounts inside."""
        for name, target in self._directories:
            (self.base / name).mkdir(parents=True, exist_ok=True)
            pathlib.Path(target).mkdir(parents=True, exist_ok=True)
        for name, target in BOUND_FILES:
            (self.base / name).touch()
            if not pathlib.Path(target).exists():
                raise LabError(f"{target} is missing; it comes with Debian's package swtpm-tools")
        pathlib.Path("/run/libvirt").mkdir(exist_ok=True)
        # Mounts made outside later (a store's FUSE mount below the shared directory) come in, none goes out.
        unshare = [
            "unshare",
            "--mount",
            "--net",
            "--uts",
            "--propagation=slave",
            "sleep",
            "infinity",
        ]
        holder = process.start(unshare, self.base / "holder.log")
        holder.save(self._record)
        if not process.wait_until(lambda: _has_own_namespaces(holder), START_LIMIT_S):
            holder.end()
            raise LabError(f"unshare made no namespaces for {self.hostname}: {self._holder_log()}")
        process.run([*self.enter(), "sh", "-e"], script=self._mount_script())

    def _holder_log(self) -> str:
        return (self.base / "holder.log").read_text()[-500:].strip()

    def _mount_script(self) -> str:
        # What holds another's place first.
        binds = sorted([*self._directories, *BOUND_FILES], key=lambda bind: bind[1].count("/"))
        return "\n".join(
            [
                # First, so that whatever runs inside from now on is found by it.
                f"mount -t tmpfs -o mode=0755 {self.marker} /run/libvirt",
                *(f"mount --bind '{self.base / name}' {target}" for name, target in binds),
                # /sys/class/net shows the network namespace of whoever mounted it.
                "mount -t sysfs sysfs /sys",
                f"echo {self.hostname} > /proc/sys/kernel/hostname",
                f"echo {RESERVED_PORTS} > /proc/sys/net/ipv4/ip_local_reserved_ports",
                "ip link set lo up",
            ]
        )


def _has_own_namespaces(holder: Process) -> bool:
    """Whether unshare has done its work and become ``sleep``."""
    try:
        place = pathlib.Path(f"/proc/{holder.pid}")
        own = (place / "ns/mnt").readlink() != pathlib.Path("/proc/self/ns/mnt").readlink()
        return own and (place / "comm").read_text() == "sleep\n"
    except (FileNotFoundError, ProcessLookupError):
        return False


def inhabitants(marker: str) -> list[Process]:
    """Every process that sees the tmpfs ``marker``: all that runs inside that host."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            mounts = (entry / "mountinfo").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError, OSError):
            continue
        started = process.start_time(int(entry.name))
        if f" - tmpfs {marker} " in mounts and started is not None:
            found.append(Process(int(entry.name), started))
    return found
