"""Guests on a Xen host: the lab's own program, which checks its memory and disk without end."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import string
import time
import uuid
import warnings

from labkit.console import FAILURES, Line, parse_line
from labkit.domain import Disk
from labkit.errors import ConsoleTimeout, GuestFailed, GuestGone, LabError
from labkit.guest import image
from labkit.guests import new_mac
from labkit.xen.machine import Machine

READY_LIMIT_S = 1800.0
# Each look is a shell in dom0, whose processor also emulates the guest's disk: of the second kind one costs seconds.
POLL_S = 3.0
LOOK_S = 60.0
DESCRIBE_S = 10.0
IMAGES = pathlib.Path("/var/lib/libvirt/images")
# xenconsoled's own logs, by the domain's name.
CONSOLES = "/var/log/xen/console/guest-{name}.log"
# Its kernel's errors are on its console, too: they say why it did not do what was asked of it.
COMMAND_LINE = "console=hvc0 loglevel=4 panic=-1 mitigations=off random.trust_cpu=on"
TYPES = {
    "pvh": "<type arch='x86_64' machine='xenpvh'>xenpvh</type>",
    "pv": "<type arch='x86_64' machine='xenpv'>linux</type>",
    "hvm": "<type arch='x86_64' machine='xenfv'>hvm</type>",
}


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a guest shall be.

    :ivar kind: ``pvh``, ``pv`` or ``hvm``
    :ivar pages: under check
    :ivar disk_blocks: of each disk under check; each read is emulated twice, and dom0's processor does it
    :ivar disk_rest: how much longer than it checks a disk it then leaves it alone
    :ivar cpuset: of the host's processors, those that run it; the first is dom0's
    """

    name: str = "web-1"
    kind: str = "pvh"
    memory_mib: int = 96
    disk_mib: int = 64
    pages: int = 4000
    page_rate: int = 200
    disk_rate: int = 5
    disk_blocks: int = 256
    disk_rest: int = 2
    vtpm: bool = True
    disks: int = 1
    vcpus: int = 1
    cpuset: str = "1"


@dataclasses.dataclass(frozen=True)
class Definition:
    """What an order says of it."""

    memory_mib: int
    disks: tuple[Disk, ...]
    macs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class XenGuest:
    """A guest that was started on ``host``, or cloned to it.

    :ivar log: what it prints; by default xenconsoled's
    """

    host: Machine
    name: str
    uuid: str
    definition: Definition
    log: str = ""

    @property
    def _log(self) -> str:
        return self.log or CONSOLES.format(name=self.name)

    def lines(self, since: int = 0) -> list[Line]:
        """What it printed from byte ``since`` of its console on."""
        raw = self.host.run(["tail", "-c", f"+{since + 1}", self._log])
        found = (parse_line(part.encode()) for part in raw.split("\n"))
        return [line for line in found if line is not None]

    def size(self) -> int:
        """Bytes that it printed until now: a position to read on from."""
        return int(self.host.run(["stat", "-c", "%s", self._log]))

    def wait_for(
        self, kind: str, since: int = 0, limit_s: float = READY_LIMIT_S, **values: str
    ) -> Line:
        """Wait until it prints a line of a kind, with these values in it.

        :raises GuestFailed: it found itself damaged
        :raises GuestGone: it ended
        :raises ConsoleTimeout: it does not
        """
        deadline = time.monotonic() + limit_s
        # While Nova starts it anew it is not there for a moment.
        look, absent = time.monotonic() + LOOK_S, 0
        while True:
            for line in self._undamaged(since):
                if line.kind == kind and values.items() <= line.values.items():
                    return line
            if time.monotonic() > look:
                absent = 0 if self.runs else absent + 1
                look += LOOK_S
            if absent > 1:
                raise GuestGone(f"{self.name} ended before it printed {kind}: {self._xen_says()}")
            if time.monotonic() > deadline:
                raise ConsoleTimeout(f"{self.name} did not print {kind} within {limit_s:.0f} s")
            time.sleep(POLL_S)

    def wait_for_pass(self, limit_s: float = READY_LIMIT_S) -> Line:
        """Wait until it has checked all of its memory once more, from its first to its last page; its line that says so.

        A line that came before may have found nothing wrong because it had looked at nothing yet.

        :raises ConsoleTimeout: it has not, in time; otherwise as ``wait_for``
        """
        deadline = time.monotonic() + limit_s
        since = self.size()
        # The pass that is under way began before.
        wanted = self.wait_for("TICK", since, limit_s).number("pass") + 2
        while True:
            # Damage is told in a line of its own: none may be left out.
            ticks = [line for line in self._undamaged(since) if line.kind == "TICK"]
            if ticks and ticks[-1].number("pass") >= wanted:
                return ticks[-1]
            if time.monotonic() > deadline:
                raise ConsoleTimeout(
                    f"{self.name} did not check all of its memory within {limit_s:.0f} s"
                )
            time.sleep(POLL_S)

    def _undamaged(self, since: int) -> list[Line]:
        lines = self.lines(since)
        for line in lines:
            if line.kind in FAILURES:
                raise GuestFailed(f"{self.name}: {line.kind} {dict(line.values)}")
        return lines

    @property
    def runs(self) -> bool:
        """Whether its host has it."""
        return (
            self.name in self.host.run(["virsh", "-c", "xen:///system", "list", "--name"]).split()
        )

    def processor_times_s(self) -> list[float]:
        """How long each of its processors has worked on this host."""
        table = self.host.run(["xl", "vcpu-list", self.name]).splitlines()[1:]
        return [float(row.split()[5]) for row in table]

    def describe(self) -> str:
        """Whether it goes on, and what it and its Xen said last: for whoever looks into a fault."""
        before = self.size()
        time.sleep(DESCRIBE_S)
        said = self.host.run(["tail", "-c", "2000", self._log])
        asked = self.host.run(
            ["bash", "-c", "xl list; xenstore-ls -f /local/domain | grep control/"]
        )
        return "\n".join(
            [
                f"{self.name} printed {self.size() - before} bytes within {DESCRIBE_S:.0f} s:",
                *(said, asked, self._xen_says()),
            ]
        )

    def _xen_says(self) -> str:
        return self.host.run(["bash", "-c", "xl dmesg | grep -v ' save: ' | tail -n 24"])

    def destroy(self) -> None:
        """End it."""
        self.host.run(["virsh", "-c", "xen:///system", "destroy", self.name])


def share_boot_files(host: Machine, cache: pathlib.Path) -> None:
    """Give a host what a guest boots from; the device model of a restored HVM guest opens it once more."""
    boot = image.build(cache)
    for name, path in (("vmlinuz", boot.kernel), ("initramfs", boot.initramfs)):
        shutil.copyfile(path, host.shared / name)


def start(host: Machine, cache: pathlib.Path, wish: Wish) -> XenGuest:
    """Start a guest; it boots while the caller goes on (``wait_for("READY")``).

    :raises LabError: libvirt did not start it
    """
    share_boot_files(host, cache)
    # A guest's images lie on the host's own disk: what is shared with this machine is slow.
    targets = [f"xvd{letter}" for letter in string.ascii_lowercase[: wish.disks]]
    disks = tuple(
        Disk(target, IMAGES / f"{wish.name}-{target}.qcow2", wish.disk_mib << 20)
        for target in targets
    )
    host.run(["mkdir", "-p", IMAGES])
    for disk in disks:
        host.run(["qemu-img", "create", "-q", "-f", "qcow2", disk.path, f"{wish.disk_mib}M"])
    definition = Definition(wish.memory_mib, disks, (new_mac(),))
    guest = XenGuest(host, wish.name, str(uuid.uuid4()), definition)
    (host.shared / f"{wish.name}.xml").write_text(to_xml(guest, wish))
    told = host.run(
        ["virsh", "-c", "xen:///system", "create", f"/lab/{wish.name}.xml"], limit_s=900
    )
    if "created" not in told:
        raise LabError(f"{host.name} did not start {wish.name}: {told}")
    return guest


def boot(host: Machine, cache: pathlib.Path, wish: Wish) -> XenGuest:
    """Start a guest and wait until it is ready.

    The processor that an emulated one emulates is not faultless: one of some sixty kernels died of a triple fault before
    it had printed a word (doc/source/lab.rst). Such a guest is started once more, which is told.

    :raises LabError: it did not become ready
    """
    try:
        return _boot(host, cache, wish)
    except GuestGone as error:
        warnings.warn(f"{error}; it is started once more", stacklevel=2)
        return _boot(host, cache, wish)


def _boot(host: Machine, cache: pathlib.Path, wish: Wish) -> XenGuest:
    guest = start(host, cache, wish)
    guest.wait_for("READY")
    return guest


def to_xml(guest: XenGuest, wish: Wish) -> str:
    """Its definition for libvirt's libxl driver."""
    asked = f"np={wish.pages} rate={wish.page_rate} diskrate={wish.disk_rate}"
    asked += f" diskblocks={wish.disk_blocks} diskrest={wish.disk_rest}"
    mac = guest.definition.macs[0]
    return "\n".join(
        [
            "<domain type='xen'>",
            f"<name>{guest.name}</name><uuid>{guest.uuid}</uuid>",
            # dom0 has the first processor for itself.
            f"<memory unit='MiB'>{wish.memory_mib}</memory><vcpu cpuset='{wish.cpuset}'>{wish.vcpus}</vcpu>",
            # libvirt's libxl driver hands Xen these only.
            "<cputune>",
            *(f"<vcpupin vcpu='{number}' cpuset='{wish.cpuset}'/>" for number in range(wish.vcpus)),
            "</cputune>",
            f"<os>{TYPES[wish.kind]}<kernel>/lab/vmlinuz</kernel><initrd>/lab/initramfs</initrd>",
            f"<cmdline>{COMMAND_LINE} {asked}</cmdline></os>",
            # What a firmware's guest finds its devices and interrupts by.
            *(["<features><acpi/><apic/><pae/></features>"] if wish.kind == "hvm" else []),
            # The emulated processor cannot emulate the time stamp counter once more.
            "<clock offset='utc'><timer name='tsc' mode='native'/></clock>",
            "<on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>",
            "<devices>",
            *(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
                f"<source file='{disk.path}'/><target dev='{disk.target}' bus='xen'/></disk>"
                for disk in guest.definition.disks
            ),
            f"<interface type='bridge'><mac address='{mac}'/><source bridge='br0'/></interface>",
            "<console type='pty'><target type='xen' port='0'/></console>",
            "</devices></domain>",
        ]
    )
