"""The monitor of the QEMU that serves a Xen domain's disks (qdisk), at the socket that libxl gives it.

libxl opens two: it speaks through the first itself, the second is for tools that look. One client at a time is heard.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from nova_trusted_clone.hypervisor.base import MonitorError
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor

SOCKET = "/run/xen/qmp-libxenstat-{domain}"
ANSWER_LIMIT_S = 30.0
# The longest answer is the list of block nodes.
MAX_ANSWER_BYTES = 4 << 20


class XenMonitor(Monitor):
    """Commands to that QEMU; ``connected`` makes one."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(None)
        self._connection = connection
        self._waiting = b""

    def execute_with_file(self, descriptor: int, command: str, **arguments: Any) -> Any:
        """Run a command and hand an open file over with it.

        :raises MonitorError: QEMU refused it, or is gone
        """
        request = self._request(command, arguments)
        try:
            socket.send_fds(self._connection, [request.encode() + b"\n"], [descriptor])
        except OSError as error:
            raise MonitorError(f"{command}: {error}") from error
        return self._answer(command, self._read())

    def human(self, command: str) -> str:
        """Run a command of the human monitor and return its text."""
        return str(self.execute("human-monitor-command", command_line=command))

    def greet(self) -> None:
        """Hear its greeting and say what we understand, which is nothing special."""
        self._receive()
        self.execute("qmp_capabilities")

    def _call(self, request: str) -> str:
        try:
            self._connection.sendall(request.encode() + b"\n")
        except OSError as error:
            raise MonitorError(f"monitor: {error}") from error
        return self._read()

    def _read(self) -> str:
        """The next answer; events in between are nobody's here."""
        while True:
            message = self._receive()
            if "return" in message or "error" in message:
                return json.dumps(message)

    def _receive(self) -> Mapping[str, Any]:
        while b"\n" not in self._waiting:
            if len(self._waiting) > MAX_ANSWER_BYTES:
                raise MonitorError(f"monitor: an answer of more than {MAX_ANSWER_BYTES} bytes")
            try:
                part = self._connection.recv(1 << 16)
            except OSError as error:
                raise MonitorError(f"monitor: {error}") from error
            if not part:
                raise MonitorError("monitor: QEMU closed the connection")
            self._waiting += part
        line, _, self._waiting = self._waiting.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise MonitorError(f"monitor: {error}") from error
        if not isinstance(message, dict):
            raise MonitorError("monitor: an answer that is not an object")
        return message


@contextlib.contextmanager
def connected(domain: int) -> Iterator[XenMonitor]:
    """The monitor of a domain's QEMU, for a block of code.

    :param domain: its number
    :raises MonitorError: it has none, or does not answer
    """
    path = pathlib.Path(SOCKET.format(domain=domain))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_LIMIT_S)
        try:
            connection.connect(str(path))
        except OSError as error:
            raise MonitorError(f"{path}: {error}") from error
        monitor = XenMonitor(connection)
        monitor.greet()
        yield monitor
