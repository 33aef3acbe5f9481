"""One Xen host: a machine that QEMU emulates, started, spoken to and ended."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shlex
import shutil
import socket
from collections.abc import Sequence

from labkit import hardware_tpm, process
from labkit.errors import LabError
from labkit.paths import CHECKOUT, LabPaths
from labkit.process import Process, Word
from labkit.xen.image import HostImage

MEMORY_MIB = 3072
# With nova-compute in it.
DOM0_MIB = 1536
# dom0's, and two for guests: each that died of the emulation shared its processor with another one (doc/source/lab.rst).
PROCESSORS = 3
# With SMAP dom0's kernel dies when it first leaves to user space; a PVH guest hangs in RDTSCP. AVX is off by suspicion alone.
PROCESSOR = "max,+svm,-smap,-rdtscp,-avx,-avx2,-f16c,-fma"
XEN_OPTIONS = (
    "console=com1 com1=115200,8n1 loglvl=info guest_loglvl=info noreboot"
    " spec-ctrl=no,eager-fpu=yes xpti=no"
    # Where a guest ran on dom0's own emulated processor, dom0's programs were damaged (doc/source/lab.rst).
    " dom0_max_vcpus=1 dom0_vcpus_pin"
)
DOM0_OPTIONS = "console=hvc0 loglevel=4 mitigations=off"
START_LIMIT_S = 600.0
MONITOR_LIMIT_S = 10.0
READY = "DOM0 READY"


@dataclasses.dataclass(frozen=True)
class Machine:
    """A Xen host by its name and its address on the cable between the hosts.

    :ivar management: its address on a cloud's management network, where it is a host of one
    """

    paths: LabPaths
    name: str
    address: str
    management: str = ""

    @property
    def base(self) -> pathlib.Path:
        """Its files on this machine."""
        return self.paths.root / "xen" / self.name

    @property
    def shared(self) -> pathlib.Path:
        """A directory of this machine that is ``/lab`` there."""
        return self.base / "lab"

    @property
    def run_dir(self) -> pathlib.Path:
        """Sockets, whose paths are short."""
        return self.paths.run / "xen" / self.name

    @property
    def console(self) -> pathlib.Path:
        """What Xen and dom0 print."""
        return self.base / "console.log"

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        running = Process.load(self.base / "qemu.json")
        return running is not None and running.alive

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(
        self,
        image: HostImage,
        vendor_config: pathlib.Path,
        cable: pathlib.Path,
        *,
        first: bool,
        tap: int | None = None,
    ) -> None:
        """Make its layer of the disk and its TPM, and start it; ``await_ready`` comes after.

        :param cable: the socket of the cable; the first host makes it
        :param tap: an open tap on the management network
        """
        for directory in (self.base, self.shared, self.run_dir):
            directory.mkdir(mode=0o700, parents=True)
        shutil.copy(image.key, self.base / "key")
        hardware_tpm.manufacture(self.base / "tpm", vendor_config, self.name)
        layer = self.base / "disk.qcow2"
        process.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image.disk, layer]
        )
        self._power_tpm()
        port = _free_port()
        (self.base / "port").write_text(str(port))
        command = self._command(image, layer, port, cable, first)
        if tap is not None:
            command += ["-netdev", f"tap,id=management,fd={tap}"]
            command += ["-device", f"virtio-net-pci,netdev=management,mac={_mac(first, 0x6D)}"]
        running = process.start(
            command, self.base / "qemu.out", descriptors=() if tap is None else (tap,)
        )
        running.save(self.base / "qemu.json")

    def _power_tpm(self) -> None:
        state = self.base / "tpm"
        command: list[Word] = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"]
        command += ["--ctrl", f"type=unixio,path={self.run_dir / 'tpm'}"]
        command += ["--log", f"file={state / 'swtpm.log'},level=1", "--terminate"]
        running = process.start(command, state / "swtpm.out")
        running.save(self.base / "tpm.json")
        if not process.wait_until((self.run_dir / "tpm").exists, hardware_tpm.START_LIMIT_S):
            raise LabError(f"the TPM of {self.name} did not start")

    def _command(
        self, image: HostImage, layer: pathlib.Path, port: int, cable: pathlib.Path, first: bool
    ) -> list[Word]:
        xen = f"{XEN_OPTIONS} dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M"
        dom0 = f"{DOM0_OPTIONS} lab.name={self.name} lab.address={self.address}"
        dom0 += f" lab.management={self.management}" if self.management else ""
        end = "on" if first else "off"
        return [
            *(
                "qemu-system-x86_64",
                "-name",
                self.name,
                "-machine",
                "q35",
                "-accel",
                "tcg,tb-size=512",
            ),
            *("-cpu", PROCESSOR, "-smp", str(PROCESSORS), "-m", str(MEMORY_MIB)),
            *("-display", "none", "-vga", "none", "-no-reboot", "-serial", f"file:{self.console}"),
            *("-monitor", f"unix:{self.run_dir / 'monitor'},server,nowait"),
            *("-kernel", image.xen, "-append", xen),
            *("-initrd", f"{image.kernel} {dom0},{image.initramfs}"),
            *("-drive", f"file={layer},if=virtio,cache=unsafe"),
            *(
                "-object",
                "rng-random,id=rng,filename=/dev/urandom",
                "-device",
                "virtio-rng-pci,rng=rng",
            ),
            *("-netdev", f"user,id=shell,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
            *("-device", "virtio-net-pci,netdev=shell"),
            *("-netdev", f"stream,id=cable,server={end},addr.type=unix,addr.path={cable}"),
            *("-device", f"virtio-net-pci,netdev=cable,mac={_mac(first, 0x65)}"),
            *("-chardev", f"socket,id=tpm,path={self.run_dir / 'tpm'}"),
            *("-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm"),
            *("-fsdev", f"local,id=project,path={CHECKOUT},security_model=none,readonly=on"),
            *("-device", "virtio-9p-pci,fsdev=project,mount_tag=project"),
            *("-fsdev", f"local,id=lab,path={self.shared},security_model=none"),
            *("-device", "virtio-9p-pci,fsdev=lab,mount_tag=lab"),
        ]

    def await_ready(self, limit_s: float = START_LIMIT_S) -> None:
        """Wait until libvirt answers there.

        :raises LabError: with the end of the console
        """

        def said() -> bool:
            return READY in self.printed() or not self.is_up

        if not process.wait_until(said, limit_s, poll_s=0.5) or not self.is_up:
            qemu = (self.base / "qemu.out").read_text(errors="replace")
            raise LabError(f"{self.name} did not start: {self.printed()[-1000:]} {qemu[-500:]}")
        self.run(["virsh", "-c", "xen:///system", "list"], limit_s=120)

    def set_link(self, up: bool) -> None:
        """Plug the cable to the other host in, or pull it out."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(MONITOR_LIMIT_S)
            monitor.connect(str(self.run_dir / "monitor"))
            _prompted(monitor)
            monitor.sendall(f"set_link cable {'on' if up else 'off'}\n".encode())
            _prompted(monitor)

    def printed(self) -> str:
        """The console until now."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def end(self) -> None:
        """Pull the plug; harmless when it does not run. Its shells end with it."""
        for record in ("qemu.json", "tpm.json"):
            running = Process.load(self.base / record)
            if running is not None:
                running.end()

    # -- speaking to it -----------------------------------------------------------------------------------------------

    def shell(self, command: Sequence[Word] = ()) -> list[str]:
        """The command of this machine that runs ``command`` there, or a shell."""
        port = (self.base / "port").read_text()
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        options += [
            "ControlMaster=auto",
            f"ControlPath={self.run_dir / 'ssh'}",
            # What it forwards must last: it goes with the machine.
            "ControlPersist=yes",
        ]
        words = ["ssh", "-i", str(self.base / "key"), "-p", port]
        words += [word for option in options for word in ("-o", option)]
        if not command:
            return [*words, "-t", "root@127.0.0.1"]
        return [*words, "root@127.0.0.1", shlex.join(os.fspath(word) for word in command)]

    def run(
        self, command: Sequence[Word], *, script: str | None = None, limit_s: float = 300.0
    ) -> str:
        """Run a command there to its end and return what it printed.

        :raises CommandFailed: with its output
        """
        return process.run(self.shell(command), script=script, limit_s=limit_s)

    def python(self, script: str, limit_s: float = 300.0) -> str:
        """Run a program there that sees the project; what it printed."""
        return self.run(["/opt/venv/bin/python", "-"], script=script, limit_s=limit_s)

    def forward(self, there: pathlib.PurePath, name: str) -> pathlib.Path:
        """Have a unix socket of the host here, too; its path."""
        here = self.run_dir / name
        self.run(["true"])
        words = self.shell(["true"])[:-2]
        process.run([*words, "-O", "forward", "-L", f"{here}:{there}", "root@127.0.0.1"])
        return here


def _mac(first: bool, network: int) -> str:
    """Of a card, by the network that it is on."""
    return f"52:54:00:78:{network:02x}:{1 if first else 2:02x}"


def _prompted(monitor: socket.socket) -> None:
    """Read on to QEMU's next prompt."""
    told = b""
    while not told.endswith(b"(qemu) "):
        part = monitor.recv(4096)
        if not part:
            raise LabError(f"QEMU's monitor ended: {told!r}")
        told += part


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
