"""Two hosts of the lab for the bench, in a place of their own beside the lab that a person has up."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import libvirt
from labkit import guests, libvirtd
from labkit.errors import LabError
from labkit.guests import Guest
from labkit.host import Host
from labkit.lab import Lab
from labkit.paths import LabPaths

from bench.report import BenchError, Say

# Of a guest's memory; the rest is its kernel's. The more is filled the less zero pages flatter us.
FILLED = 0.7
PAGES_A_MIB = 256
# Under emulation a guest fills about 100 MiB a second on a quiet machine.
READY_LIMIT_S = 300.0


@contextlib.contextmanager
def up(say: Say) -> Iterator[Lab]:
    """Both hosts, up for a block of code.

    :raises BenchError: without root, or when a part of the lab does not start
    """
    if os.geteuid() != 0:
        raise BenchError("hosts are namespaces and mounts: run it as root")
    libvirtd.quieten()
    known = LabPaths.from_environment()
    lab = Lab.at(dataclasses.replace(known, root=known.root / "bench"))
    try:
        lab.up(say)
        try:
            yield lab
        finally:
            lab.down(say)
    except (LabError, libvirt.libvirtError) as error:
        raise BenchError(f"the lab: {error}") from error


@contextlib.contextmanager
def guest(host: Host, memory_mib: int) -> Iterator[Guest]:
    """A guest that has filled most of its memory, for a block of code."""
    pages = int(memory_mib * PAGES_A_MIB * FILLED)
    wish = guests.Wish(name=f"bench-{memory_mib}", memory_mib=memory_mib, pages=pages)
    made = guests.start(host, wish)
    try:
        made.wait_ready(READY_LIMIT_S)
        yield made
    finally:
        made.destroy()


def require_sound(made: Guest) -> None:
    """Require that the guest has not found its memory or disks damaged by what was done to it.

    :raises BenchError: with its own words
    """
    for line in made.console.lines():
        if line.kind in ("BADPAGE", "BADBLOCK"):
            raise BenchError(f"{made.name} found itself damaged: {line.kind} {dict(line.values)}")
