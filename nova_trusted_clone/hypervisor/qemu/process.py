"""A QEMU process seen from outside: who it is, and what is mapped where (proc(5))."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import access

_CHUNK_BYTES = 1 << 20
_RANGE = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)"
)


@dataclasses.dataclass(frozen=True)
class ProcessId:
    """A process for good: a pid alone may be another's tomorrow.

    :ivar start_time: clock ticks after boot (proc(5), stat, field 22)
    """

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process that has ``pid`` now.

        :raises HypervisorError: there is none
        """
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError as error:
            raise HypervisorError(f"process {pid} is gone") from error
        # The name stands in parentheses and may hold any character, spaces and parentheses too.
        return cls(pid, int(stat.rpartition(")")[2].split()[19]))

    def alive(self) -> bool:
        """Whether it still runs."""
        try:
            return ProcessId.of(self.pid) == self
        except HypervisorError:
            return False

    def owner(self) -> tuple[int, int]:
        """The user and group it runs as."""
        found = pathlib.Path(f"/proc/{self.pid}").stat()
        return found.st_uid, found.st_gid


@dataclasses.dataclass(frozen=True)
class Mapping:
    """A range of a process's address space.

    :ivar flags: ``VmFlags`` of smaps: ``uw`` write-protected through userfaultfd, ``dc`` not copied on fork, and so on
    """

    start: int
    size: int
    permissions: str
    device: str
    inode: int
    path: str
    flags: frozenset[str]


def mappings(pid: int) -> list[Mapping]:
    """Every mapping of a process with its flags.

    :raises HypervisorError: the process is gone, or may not be looked into
    """
    with opened(ProcessId.of(pid), "smaps") as descriptor:
        try:
            text = b""
            while part := os.pread(descriptor, _CHUNK_BYTES, len(text)):
                text += part
        except OSError as error:
            raise HypervisorError(f"process {pid}: cannot read its mappings: {error}") from error
    return parse_smaps(text.decode(errors="replace"))


@contextlib.contextmanager
def opened(process: ProcessId, name: str) -> Iterator[int]:
    """One of ``access.FILES`` of a process for a block of code.

    :raises HypervisorError: the process is gone, or may not be looked into
    """
    try:
        descriptor = access.open_file(process.pid, process.start_time, name)
    except OSError as error:
        raise HypervisorError(f"process {process.pid}: its {name}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_memory(process: ProcessId) -> tuple[int, int]:
    """/proc/PID/mem and pagemap of a process; the caller's to close.

    :raises HypervisorError: the process is gone, or may not be looked into
    """
    with opened(process, "mem") as memory, opened(process, "pagemap") as pagemap:
        return os.dup(memory), os.dup(pagemap)


def parse_smaps(text: str) -> list[Mapping]:
    """The mappings in the text of an smaps file."""
    found: list[Mapping] = []
    heading: re.Match[str] | None = None
    for line in text.splitlines():
        if line.startswith("VmFlags:") and heading:
            start, end = int(heading[1], 16), int(heading[2], 16)
            found.append(
                Mapping(
                    start=start,
                    size=end - start,
                    permissions=heading[3],
                    device=heading[5],
                    inode=int(heading[6]),
                    path=heading[7],
                    flags=frozenset(line.split()[1:]),
                )
            )
            heading = None
        elif match := _RANGE.fullmatch(line):
            heading = match
    return found


def of_domain(server_uuid: str) -> ProcessId:
    """The QEMU process of a domain: the one that has the domain's UUID on its command line.

    libvirt's own pid file may be in another mount namespace.

    :raises HypervisorError: there is none
    """
    wanted = server_uuid.encode()
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"-uuid" in words and words[words.index(b"-uuid") + 1] == wanted:
                    found.append(int(entry.name))
    if len(found) != 1:
        raise HypervisorError(f"{len(found)} processes run server {server_uuid}, expected 1")
    return ProcessId.of(found[0])
