"""QEMU's monitor through libvirt, with errors that have types.

Files are handed to QEMU as descriptors and never as paths: its user, its confinement and its mount namespace then need
no change for a freeze.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import libvirt
import libvirt_qemu

from nova_trusted_clone.hypervisor.base import HypervisorError, MonitorError

POLL_S = 0.01


class Monitor:
    """Commands to the QEMU of one domain."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return what it returns; ``_`` in argument names stands for ``-``.

        :raises MonitorError: QEMU refused it, or is gone
        """
        return self._answer(command, self._call(self._request(command, arguments)))

    def execute_with_file(self, descriptor: int, command: str, **arguments: Any) -> Any:
        """The same, and hand an open file over with it."""
        request = self._request(command, arguments)
        try:
            text, _files = libvirt_qemu.qemuMonitorCommandWithFiles(
                self._domain, request, [descriptor], 0
            )
        except libvirt.libvirtError as error:
            raise MonitorError(f"{command}: {error}") from error
        return self._answer(command, text)

    def human(self, command: str) -> str:
        """Run a command of the human monitor and return its text."""
        try:
            text: str = libvirt_qemu.qemuMonitorCommand(
                self._domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            )
        except libvirt.libvirtError as error:
            raise MonitorError(f"{command}: {error}") from error
        return text

    @staticmethod
    def _request(command: str, arguments: Mapping[str, Any]) -> str:
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return json.dumps({"execute": command, "arguments": named})

    def _call(self, request: str) -> str:
        try:
            text: str = libvirt_qemu.qemuMonitorCommand(self._domain, request, 0)
        except libvirt.libvirtError as error:
            raise MonitorError(f"monitor: {error}") from error
        return text

    @staticmethod
    def _answer(command: str, text: str) -> Any:
        answer = json.loads(text)
        if "error" in answer:
            error = answer["error"]
            raise MonitorError(f"{command}: {error.get('desc')}", str(error.get("class")))
        return answer["return"]


def await_condition(what: str, holds: Callable[[], bool], timeout_s: float) -> None:
    """Wait until something holds.

    :raises HypervisorError: it did not within the time
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise HypervisorError(f"{what} did not come about within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def migration_status(monitor: Monitor) -> str:
    """QEMU's word for its migration: ``none`` when there never was one."""
    status: str = monitor.execute("query-migrate").get("status", "none")
    return status


def capability(monitor: Monitor, name: str) -> bool:
    """Whether a migration capability is on."""
    found: Sequence[Mapping[str, Any]] = monitor.execute("query-migrate-capabilities")
    return any(one["capability"] == name and one["state"] for one in found)


def set_capability(monitor: Monitor, name: str, state: bool) -> None:
    """Turn a migration capability on or off."""
    monitor.execute("migrate-set-capabilities", capabilities=[{"capability": name, "state": state}])
