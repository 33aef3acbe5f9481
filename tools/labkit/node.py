"""One node of the lab: a directory, namespaces, and what is run inside them."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping

from labkit import process
from labkit.paths import LabPaths
from labkit.process import Process, Words
from labkit.sandbox import Binds, Sandbox, inhabitants


@dataclasses.dataclass(frozen=True)
class Node:
    """A node by its name and the address at which the others reach it."""

    paths: LabPaths
    name: str
    address: str

    @property
    def base(self) -> pathlib.Path:
        """The node's directory."""
        return self.paths.hosts / self.name

    @property
    def run_dir(self) -> pathlib.Path:
        """For unix sockets: short, and the same path inside and outside of the node."""
        return self.paths.run / self.name

    @property
    def marker(self) -> str:
        """The name by which a process of this node is told from all others."""
        return f"ntc-{self.paths.lab_id}-{self.name}"

    @property
    def binds(self) -> Binds:
        """Directories of the node's own that are bound over fixed places, besides those of libvirt and swtpm."""
        return ()

    @property
    def sandbox(self) -> Sandbox:
        """The node's namespaces."""
        return Sandbox(self.base, self.marker, self.name, self.binds)

    def run(self, command: Words, *, script: str | None = None, limit_s: float = 120.0) -> str:
        """Run a command inside to its end and return what it printed."""
        return process.run([*self.sandbox.enter(), *command], script=script, limit_s=limit_s)

    def start(
        self, command: Words, log: pathlib.Path, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program inside that stays; ``down`` ends it."""
        return process.start([*self.sandbox.enter(), *command], log, env=env)

    def down(self) -> None:
        """End all that runs inside and remove all that was made; harmless when there is nothing."""
        # Again until nobody is left: a daemon may have started something in between.
        for _attempt in range(5):
            running = inhabitants(self.marker)
            if not running:
                break
            process.end_all(running)
        for record in ("holder.json", "libvirtd.json", "tpm/swtpm.json"):
            found = Process.load(self.base / record)
            if found is not None:
                found.end()
        unmount_below(self.run_dir)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)


def mounts_below(directory: pathlib.Path) -> list[pathlib.Path]:
    """Mount points at or below ``directory``, the deepest first."""
    prefix = f"{directory}/"
    points = [
        line.split()[4].encode().decode("unicode_escape")
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    return [pathlib.Path(p) for p in sorted(points, reverse=True) if f"{p}/".startswith(prefix)]


def unmount_below(directory: pathlib.Path) -> None:
    """Unmount everything at or below ``directory``; a FUSE mount whose server has gone too."""
    for point in mounts_below(directory):
        process.run(["umount", "--lazy", point])
