"""In the daemon with CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH and CAP_SYS_NICE: a guest's QEMU is opened, and mended.

Guest memory itself never goes over the daemon's channel, which may be logged: only descriptors, and those over a socket.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import hugepages, userfault
from nova_trusted_clone.hypervisor.qemu.access import FILES
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, opened
from nova_trusted_clone.privsep import descriptors, guest_memory_pctxt

# Debian's and Fedora's names, and those of Red Hat's /usr/libexec/qemu-kvm; after an upgrade the kernel adds " (deleted)".
_QEMU = re.compile(r"(qemu-system-[a-z0-9_]+|qemu-kvm)( \(deleted\))?")


class NoGuest(HypervisorError):
    """Another process than a guest's was asked for."""

    code = "trusted-clone.privilege.no-guest"


@guest_memory_pctxt.entrypoint
def hand_over(pid: int, start_time: int, name: str, receiver: int) -> None:
    """Open ``access.FILES`` of a guest's QEMU and hand them to the process ``receiver`` at ``name``.

    :raises NoGuest: the process is no QEMU, and stays closed
    :raises HypervisorError: it is gone
    """
    process = ProcessId(pid, start_time)
    with contextlib.ExitStack() as closing:
        found = [closing.enter_context(opened(process, file)) for file in FILES]
        # They are open on one process for good; now its identity can be checked without a race.
        _require_guest(process)
        descriptors.send(name, receiver, found)


@guest_memory_pctxt.entrypoint
def catch_userfaultfd(pid: int, start_time: int, limit_s: float, name: str, receiver: int) -> None:
    """Take a userfaultfd that a guest's QEMU opens meanwhile, and hand it to the process ``receiver`` at ``name``.

    :raises NoGuest: the process is no QEMU
    :raises HypervisorError: it opened none that was seen
    """
    process = ProcessId(pid, start_time)
    _require_guest(process)
    found = userfault.catch(process, limit_s)
    try:
        descriptors.send(name, receiver, [found])
    finally:
        os.close(found)


@guest_memory_pctxt.entrypoint
def collapse(pid: int, start_time: int, ranges: list[tuple[int, int]], limit_s: float) -> int:
    """Make a guest's memory huge pages again; how many there are then.

    :raises NoGuest: the process is no QEMU
    """
    process = ProcessId(pid, start_time)
    _require_guest(process)
    return hugepages.collapse_ranges(process, ranges, limit_s)


def _require_guest(process: ProcessId) -> None:
    try:
        program = pathlib.Path(f"/proc/{process.pid}/exe").readlink().name
    except OSError as error:
        raise HypervisorError(f"process {process.pid}: {error.strerror}") from error
    if not _QEMU.fullmatch(program) or not process.alive():
        raise NoGuest(f"process {process.pid} is {program}, not the guest's QEMU that was meant")
