"""Who looks into a guest's QEMU: this process by its own right, or a daemon that has the right in its place (``privsep``)."""

from __future__ import annotations

from typing import Protocol

from nova_trusted_clone.hypervisor.qemu import rescue
from nova_trusted_clone.hypervisor.qemu.process import ProcessId
from nova_trusted_clone.hypervisor.qemu.window import Window


class GuestAccess(Protocol):
    """What needs a right over a guest's process that its libvirt connection does not give."""

    def open(self, process: ProcessId) -> Window:
        """A window, which is the caller's to close.

        :raises HypervisorError: the process is gone or another one, or may not be looked into
        """

    def lift_protection(self, process: ProcessId) -> int:
        """Lift the write protection that QEMU left on its own memory; the ranges that there were.

        :raises HypervisorError: something stays protected
        """


class OwnAccess:
    """By this process's own right: it is root, or has CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH."""

    def open(self, process: ProcessId) -> Window:
        """Open it here."""
        return Window.open(process)

    def lift_protection(self, process: ProcessId) -> int:
        """Lift it here."""
        return rescue.lift_protection(process)
