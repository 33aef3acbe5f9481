"""The service's side of both daemons: what ``ports.GuestAccess`` and ``ports.Mounts`` promise, done by somebody else."""

from __future__ import annotations

import os
import pathlib
import shlex

from oslo_config import cfg
from oslo_privsep import daemon, priv_context

from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.hypervisor.qemu.window import FILES, Window
from nova_trusted_clone.privsep import (
    GUEST_MEMORY_GROUP,
    guest_memory,
    guest_memory_pctxt,
    mounts,
    mounts_pctxt,
)
from nova_trusted_clone.privsep.descriptors import Receiver


class PrivilegeError(Exception):
    """A daemon cannot be started: sudo, rootwrap or the helper's command do not allow it."""


class GuestMemory:
    """A look into a guest's QEMU by the daemon ``guest_memory``."""

    def open(self, process: ProcessId) -> Window:
        """Have it opened.

        :raises HypervisorError: the process is gone, or is no guest's
        """
        with Receiver() as receiver:
            guest_memory.hand_over(process.pid, process.start_time, receiver.name, os.getpid())
            return Window(process, *receiver.receive(len(FILES)))

    def lift_protection(self, process: ProcessId) -> int:
        """Have a write protection lifted that QEMU left on its own memory; the ranges that there were.

        :raises HypervisorError: something stays protected
        """
        return int(guest_memory.lift_protection(process.pid, process.start_time))


class Mounts:
    """A store's file system, mounted by the daemon ``mounts``."""

    def mount(self, path: pathlib.Path) -> int:
        """Have it mounted on a directory of this user's; the connection, which a store serves.

        :raises DatapathError: it was refused
        """
        with Receiver() as receiver:
            mounts.mount(str(path), receiver.name, os.getpid())
            (connection,) = receiver.receive(1)
        return connection

    def unmount(self, directory: pathlib.Path) -> None:
        """Have everything of ours at or below a directory taken off; harmless when there is nothing."""
        mounts.unmount(str(directory.absolute()))


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
    cfg.CONF.set_override("helper_command", command, GUEST_MEMORY_GROUP)
