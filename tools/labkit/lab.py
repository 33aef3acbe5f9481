"""Both hosts together: up, with its undo, and down, with a look at what is left."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

from labkit import hardware_tpm
from labkit.errors import LabError, LeftBehind
from labkit.host import Host
from labkit.node import Node, mounts_below, unmount_below
from labkit.paths import LabPaths
from labkit.sandbox import inhabitants

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Lab:
    """The two hosts, up or not."""

    paths: LabPaths
    source: Host
    destination: Host

    @classmethod
    def at(cls, paths: LabPaths) -> Lab:
        """The lab whose place is ``paths``."""
        return cls(paths, Host(paths, "host-a", "10.77.0.1"), Host(paths, "host-b", "10.77.0.2"))

    @property
    def hosts(self) -> tuple[Host, Host]:
        """The source first."""
        return (self.source, self.destination)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Everything with namespaces of its own: the hosts, unless a lab has more."""
        return self.hosts

    @property
    def _places(self) -> tuple[pathlib.Path, pathlib.Path]:
        """Below these is everything that ``down`` removes."""
        return (self.paths.hosts, self.paths.run)

    @property
    def is_up(self) -> bool:
        """Whether all its nodes run."""
        return all(inhabitants(node.marker) for node in self.nodes)

    def node(self, name: str) -> Node:
        """The node of that name.

        :raises LabError: when there is none
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(
            f"there is no host {name!r}; there are {', '.join(n.name for n in self.nodes)}"
        )

    def up(self, report: Report) -> None:
        """Start both hosts and the cable between them; when a step fails, take down what was started and say why."""
        if os.geteuid() != 0:
            raise LabError("the lab makes namespaces and mounts: run it as root")
        with self._lock():
            if any(inhabitants(node.marker) for node in self.nodes):
                raise LabError(
                    f"the lab in {self.paths.root} is up already; tools/lab down ends it"
                )
            try:
                self._take_down()  # what an earlier crash may have left
                self._make_directories()
                self._bring_up(report)
            except BaseException:
                self._take_down()
                raise

    def _make_directories(self) -> None:
        for directory in (self.paths.run, self.paths.log, self.paths.hosts, self.paths.cache):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _bring_up(self, report: Report) -> None:
        vendor_config = hardware_tpm.make_vendor(self.paths.vendor_ca)
        for host in self.hosts:
            report(f"{host.name}: namespaces, TPM, libvirtd")
            host.up(vendor_config)
        report(f"a cable: {self.source.address} to {self.destination.address}")
        self.source.connect_to(self.destination)

    def down(self, report: Report) -> None:
        """End and remove everything but caches and logs; harmless when repeated.

        :raises LeftBehind: naming what is still there
        """
        with self._lock():
            self._take_down()
            left = self.leftovers()
        for line in left:
            report(f"left behind: {line}")
        if left:
            raise LeftBehind(f"{len(left)} things of the lab in {self.paths.root} are left behind")

    def _take_down(self) -> None:
        for node in self.nodes:
            keep_logs(node, self.paths.log)
            node.down()
        for place in self._places:
            unmount_below(place)
        for directory in (self.paths.hosts, self.paths.vendor_ca, self.paths.run):
            shutil.rmtree(directory, ignore_errors=True)

    def leftovers(self) -> list[str]:
        """What there is of this lab: processes, mounts and directories, in words."""
        left = [
            f"process {found.pid} in {node.name}"
            for node in self.nodes
            for found in inhabitants(node.marker)
        ]
        left += [f"mount {point}" for place in self._places for point in mounts_below(place)]
        left += [f"directory {path}" for path in self._places if path.exists()]
        return left + [f"process {pid}: {line}" for pid, line in self._mentioning()]

    def _mentioning(self) -> Iterator[tuple[int, str]]:
        """Processes outside of the hosts that name the hosts' or the sockets' directory or work in it; never our callers."""
        names = [os.fsencode(place) for place in self._places]
        ancestors = _ancestors(os.getpid())
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in ancestors:
                continue
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                line = (entry / "cmdline").read_bytes()
                place = os.fsencode((entry / "cwd").readlink())
                if any(name in line or place.startswith(name) for name in names):
                    yield int(entry.name), line.replace(b"\0", b" ").decode(errors="replace")[:200]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One up or down at a time."""
        self.paths.root.mkdir(parents=True, exist_ok=True)
        with (self.paths.root / "lab.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _ancestors(pid: int) -> set[int]:
    """``pid`` and its parents."""
    found: set[int] = set()
    while pid > 1:
        found.add(pid)
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return found


def keep_logs(node: Node, log: pathlib.Path) -> None:
    """Copy what the node's daemons said to where ``down`` leaves it."""
    kept = log / node.name
    for pattern in ("log/*.log", "log/*.out", "log/qemu/*.log", "tpm/*.log", "tpm/*.out", "*.log"):
        for path in node.base.glob(pattern):
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept / path.name)
