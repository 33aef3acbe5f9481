"""Both Xen hosts: up with its undo, and down."""

from __future__ import annotations

import compileall
import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator

from labkit import hardware_tpm
from labkit.errors import LabError
from labkit.paths import CHECKOUT, LabPaths
from labkit.xen import image
from labkit.xen.machine import Machine

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class XenHosts:
    """The two, up or not."""

    paths: LabPaths
    source: Machine
    destination: Machine

    @classmethod
    def at(cls, paths: LabPaths, management: tuple[str, str] = ("", "")) -> XenHosts:
        """Those whose place is ``paths``.

        :param management: their addresses on a cloud's management network
        """
        first, second = management
        return cls(
            paths,
            Machine(paths, "xen-a", "10.79.0.1", first),
            Machine(paths, "xen-b", "10.79.0.2", second),
        )

    @property
    def machines(self) -> tuple[Machine, Machine]:
        """The source first."""
        return (self.source, self.destination)

    def machine(self, name: str) -> Machine:
        """The one of that name.

        :raises LabError: when there is none
        """
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise LabError(f"there is no Xen host {name!r}; there are xen-a and xen-b")

    @property
    def is_up(self) -> bool:
        """Whether both run."""
        return all(machine.is_up for machine in self.machines)

    def up(self, report: Report, plug: Callable[[Machine], int] | None = None) -> None:
        """Start both; when one does not, take down what was started and say why.

        :param plug: gives a host's cable to the management network, as a descriptor, where there is one
        """
        if os.geteuid() != 0:
            raise LabError("the Xen hosts' disk is made by root: run it as root")
        with self._lock():
            if any(machine.is_up for machine in self.machines):
                raise LabError("the Xen hosts are up already; tools/lab xen down ends them")
            self._take_down()
            made = image.build(self.paths.cache, report)
            try:
                self._start(made, report, plug)
            except BaseException:
                self._take_down()
                raise

    def _start(
        self, made: image.HostImage, report: Report, plug: Callable[[Machine], int] | None
    ) -> None:
        # The hosts see the checkout and cannot write there.
        compileall.compile_dir(CHECKOUT / "nova_trusted_clone", quiet=1)
        vendor = hardware_tpm.make_vendor(self.paths.root / "xen" / "tpm-vendor")
        cable = self.paths.run / "xen" / "cable"
        for machine in self.machines:
            report(f"{machine.name}: TPM, machine")
            tap = None if plug is None else plug(machine)
            try:
                machine.start(made, vendor, cable, first=machine is self.source, tap=tap)
            finally:
                if tap is not None:
                    os.close(tap)
        for machine in self.machines:
            machine.await_ready()
            report(f"{machine.name}: dom0 is ready, libvirt answers")

    def down(self) -> None:
        """End both and remove all but the cache; harmless when repeated."""
        with self._lock():
            self._take_down()

    def _take_down(self) -> None:
        for machine in self.machines:
            machine.end()
            if machine.console.exists():
                self.paths.log.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(machine.console, self.paths.log / f"{machine.name}-console.log")
        for directory in (self.paths.root / "xen", self.paths.run / "xen"):
            shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # a lab on bare hosts has its sockets there too
            self.paths.run.rmdir()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self.paths.root.mkdir(parents=True, exist_ok=True)
        with (self.paths.root / "xen-hosts.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
