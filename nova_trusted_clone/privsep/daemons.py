"""The service's side of both daemons: what it may not do itself, done by them."""

from __future__ import annotations

import os
import pathlib
import shlex
from collections.abc import Sequence

from oslo_config import cfg
from oslo_privsep import daemon, priv_context

from nova_trusted_clone.datapath import mounts as own_mounts
from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import access
from nova_trusted_clone.privsep import (
    GUEST_MEMORY_GROUP,
    guest_memory,
    guest_memory_pctxt,
    mounts,
    mounts_pctxt,
)
from nova_trusted_clone.privsep.descriptors import HandOverFailed, Receiver


class PrivilegeError(Exception):
    """A daemon cannot be started: sudo, rootwrap or the helper's command do not allow it."""


class GuestMemory:
    """``access.GuestDaemon``, by the daemon ``guest_memory``."""

    def __init__(self) -> None:
        self.command = shlex.join(helper_command(guest_memory_pctxt))

    def open_files(self, pid: int, start_time: int) -> Sequence[int]:
        """Have a guest's QEMU opened."""
        try:
            with Receiver() as receiver:
                guest_memory.hand_over(pid, start_time, receiver.name, os.getpid())
                return receiver.receive(len(access.FILES))
        except HandOverFailed as error:
            raise HypervisorError(f"process {pid}: {error}") from error

    def catch_userfaultfd(self, pid: int, start_time: int, limit_s: float) -> int:
        """Have a userfaultfd taken that QEMU opens meanwhile."""
        try:
            with Receiver() as receiver:
                guest_memory.catch_userfaultfd(pid, start_time, limit_s, receiver.name, os.getpid())
                (descriptor,) = receiver.receive(1)
        except HandOverFailed as error:
            raise HypervisorError(f"process {pid}: {error}") from error
        return descriptor

    def collapse(
        self, pid: int, start_time: int, ranges: Sequence[tuple[int, int]], limit_s: float
    ) -> int:
        """Have huge pages made whole."""
        return int(guest_memory.collapse(pid, start_time, list(ranges), limit_s))


class Mounts:
    """``datapath.mounts.MountDaemon``, by the daemon ``mounts``."""

    def mount(self, path: pathlib.Path) -> int:
        """Have it mounted on a directory of this user's."""
        try:
            with Receiver() as receiver:
                mounts.mount(str(path), receiver.name, os.getpid())
                (connection,) = receiver.receive(1)
        except HandOverFailed as error:
            raise mounts.MountRefused(f"{path}: {error}") from error
        return connection

    def unmount(self, directory: pathlib.Path) -> None:
        """Have it taken off."""
        mounts.unmount(str(directory.absolute()))


def use() -> None:
    """From now on this process looks into guests and mounts through the daemons."""
    access.use(GuestMemory())
    own_mounts.use(Mounts())


def start() -> None:
    """Start both daemons now: what is missing is told at the service's start, not in a freeze.

    :raises PrivilegeError: naming what was tried
    """
    for context in (guest_memory_pctxt, mounts_pctxt):
        if context.channel is not None:
            continue
        try:
            context.start()
        except (daemon.FailedToDropPrivileges, OSError) as error:
            command = shlex.join(helper_command(context))
            raise PrivilegeError(f"{command}: {error}") from error


def helper_command(context: priv_context.PrivContext) -> list[str]:
    """The command that starts a daemon, without the socket that it is given each time."""
    return context.helper_command("")[:-4]


def use_helper(command: str) -> None:
    """In a process without a configuration of its own (a guard): start ``guest_memory`` by its service's command."""
    cfg.CONF([], project="nova", default_config_files=[], default_config_dirs=[])
    cfg.CONF.set_override("helper_command", command, GUEST_MEMORY_GROUP)
    access.use(GuestMemory())
