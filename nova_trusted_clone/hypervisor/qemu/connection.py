"""A libvirt connection for a block of code, and the thread that delivers QEMU's events."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import libvirt
import libvirt_qemu

from nova_trusted_clone.hypervisor.base import HypervisorError, RestoreFailed, ServerNotFound

_LOOP_LOCK = threading.Lock()
_LOOP: threading.Thread | None = None


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def require_event_loop() -> None:
    """Start libvirt's own event loop in this process, once; it must be there before the first connection.

    A daemon thread: it ends with the process and holds nothing.
    """
    global _LOOP
    with _LOOP_LOCK:
        if _LOOP is not None and _LOOP.is_alive():
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt prints each error to the terminal unless told otherwise; here all of them are raised.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        _LOOP = threading.Thread(target=_run_events, name="libvirt-events", daemon=True)
        _LOOP.start()


@contextlib.contextmanager
def connected(uri: str) -> Iterator[Any]:
    """A connection to the libvirt at ``uri``.

    :raises HypervisorError: when it does not answer
    """
    require_event_loop()
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise HypervisorError(f"libvirt at {uri} does not answer: {error}") from error
    try:
        yield connection
    finally:
        connection.close()


def find(connection: Any, server_uuid: str) -> Any:
    """The domain of a server.

    :raises ServerNotFound: when there is none
    """
    domain = find_or_none(connection, server_uuid)
    if domain is None:
        raise ServerNotFound(f"there is no server {server_uuid} on {connection.getHostname()}")
    return domain


def find_or_none(connection: Any, server_uuid: str) -> Any | None:
    """The domain of a server, or None."""
    try:
        return connection.lookupByUUIDString(server_uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise HypervisorError(f"server {server_uuid}: {error}") from error


def require_free(connection: Any, server_uuid: str, name: str) -> None:
    """Refuse a clone whose UUID or name a server of this host has already.

    :raises RestoreFailed: saying which
    """
    if find_or_none(connection, server_uuid) is not None:
        raise RestoreFailed(f"there is a server {server_uuid} on this host already")
    if name in {domain.name() for domain in connection.listAllDomains()}:
        raise RestoreFailed(f"there is a server named {name} on this host already")


def end(domain: Any, undefine_flags: int = 0) -> None:
    """End a domain and forget its definition; harmless when it ended meanwhile.

    :raises HypervisorError: it does not end
    """
    try:
        if domain.isActive():
            domain.destroy()
        if domain.isPersistent():
            domain.undefineFlags(undefine_flags)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise HypervisorError(f"{domain.name()} does not end: {error}") from error


class EventTimes:
    """The times at which QEMU reported its events, for a block of code.

    ``seen("RESUME")`` gives seconds of QEMU's own clock; ``wait`` blocks until there is one.
    """

    def __init__(self, connection: Any, domain: Any) -> None:
        self._connection = connection
        self._domain = domain
        self._changed = threading.Condition()
        self._times: dict[str, list[float]] = {}
        self._registration: int | None = None

    def __enter__(self) -> EventTimes:
        self._registration = libvirt_qemu.qemuMonitorEventRegister(
            self._connection, self._domain, None, self._note, None, 0
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._registration is not None:
            libvirt_qemu.qemuMonitorEventDeregister(self._connection, self._registration)

    def _note(
        self,
        _connection: Any,
        _domain: Any,
        event: str,
        seconds: int,
        microseconds: int,
        _details: str,
        _opaque: object,
    ) -> None:
        with self._changed:
            self._times.setdefault(event, []).append(seconds + microseconds / 1e6)
            self._changed.notify_all()

    def seen(self, event: str) -> list[float]:
        """Every time at which ``event`` came, oldest first."""
        with self._changed:
            return list(self._times.get(event, ()))

    def wait(self, event: str, timeout_s: float) -> bool:
        """Wait until ``event`` has come at least once; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: event in self._times, timeout_s)
