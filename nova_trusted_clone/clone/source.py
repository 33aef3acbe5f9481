"""The source's use case: every freeze of this host; each is a ``FreezeJob``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from nova_trusted_clone.clone import records
from nova_trusted_clone.clone.batch import FreezeFailed
from nova_trusted_clone.clone.freeze_job import EXPORTER, FreezeJob
from nova_trusted_clone.clone.helpers import remove
from nova_trusted_clone.clone.host import Host
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.ports import ServerShape

__all__ = ("EXPORTER", "FreezeFailed", "Source")

LOG = logging.getLogger(__name__)
RELEASE_LIMIT_S = 60.0


class Source:
    """Every freeze of this host."""

    def __init__(self, host: Host, exporter_module: str = EXPORTER) -> None:
        """:param exporter_module: the exporters' program; others than the default are for tests"""
        self._host = host
        self._exporter_module = exporter_module
        self._lock = threading.Lock()
        self._jobs: dict[str, FreezeJob] = {}

    def clone(
        self, signed_orders: Iterable[tuple[bytes, str]], *, takes_turns: bool = False
    ) -> str:
        """Start one freeze for the given orders, which must all name the same server and freeze group.

        :param signed_orders: each with the address of its destination, as ``Host.peers`` understands it
        :param takes_turns: whether it waits until the server's freezes that were started before are released; else its clones
            fail when there is one
        :returns: the freeze's id
        :raises CoreError: when an order is malformed
        :raises FreezeFailed: when the orders do not belong together, or the freeze was used before
        """
        orders = []
        for raw, destination in signed_orders:
            signed = SignedOrder.decode(raw)
            orders.append((signed, signed.order(), destination))
        groups = {
            (o.freeze_group, o.source_server, o.vtpm_mode, o.memory_mode) for _, o, _ in orders
        }
        if len(groups) != 1:
            raise FreezeFailed(
                f"orders of {len(groups)} freezes at once: one server, freeze group, vTPM and memory mode expected"
            )
        group, server, *_ = groups.pop()
        job = self._new_job(group.hex(), _uuid_text(server))
        with self._lock:
            if job.directory.exists():
                raise FreezeFailed(f"freeze {job.group} was used before")
            job.directory.mkdir(mode=0o700)
            others = [one for one in self._jobs.values() if one.holds(job.server_uuid)]
            self._jobs[job.group] = job
        try:
            for signed, order, destination in orders:
                job.batch.admit(signed, order, destination)
        except BaseException:
            # Nothing has begun: the same orders may come again.
            with self._lock:
                del self._jobs[job.group]
            remove(job.directory)
            raise
        _in_background(lambda: job.run(others if takes_turns else ()), job)
        return job.group

    def resume(self) -> None:
        """Take over, or back, what a former service left."""
        for directory in sorted(self._host.place.freezes.iterdir()):
            try:
                server = str(records.read(directory / "freeze.json")["server"])
                job = self._new_job(records.require_hex_id(directory.name, "freeze"), server)
            except (records.RecordError, KeyError) as error:
                # Killed before the first record: nothing was started yet.
                LOG.warning("freeze directory %s: %s", directory, error)
                if not (directory / "freeze").exists():
                    remove(directory)
                continue
            self._jobs[job.group] = job
            _in_background(job.resume, job)

    def abort(self, group: str, clone_id: str | None, reason: str) -> None:
        """End one clone of a freeze, or all of them.

        :raises FreezeFailed: when there is no such freeze
        """
        self._job(group).abort(clone_id, reason)

    def status(self, group: str) -> dict[str, Any]:
        """How far a freeze and its clones are."""
        return self._job(group).status()

    def inspect(self, server_uuid: str) -> ServerShape:
        """What the hypervisor says of a server, every obstacle to its being cloned included.

        :raises ServerNotFound: of the hypervisor's adapter, when there is none
        """
        return self._host.source.inspect(server_uuid)

    def uses(self, server_uuid: str) -> list[str]:
        """The freezes of a server that still have something on it."""
        with self._lock:
            jobs = list(self._jobs.values())
        return [job.group for job in jobs if job.holds(server_uuid)]

    def end_all(self, server_uuid: str, wait_s: float, reason: str) -> None:
        """Wait for a server's freezes to end; end those that have not by then, and wait for their release.

        :param wait_s: how long they may go on
        :raises FreezeFailed: when one could not be released yet; that goes on
        """
        jobs = [self._job(group) for group in self.uses(server_uuid)]
        deadline = time.monotonic() + wait_s
        for job in jobs:
            if not job.released.wait(max(0.0, deadline - time.monotonic())):
                job.abort(None, reason)
        for job in jobs:
            if not job.released.wait(RELEASE_LIMIT_S):
                raise FreezeFailed(
                    f"freeze {job.group} of server {server_uuid} is not released yet"
                )

    def _new_job(self, group: str, server_uuid: str) -> FreezeJob:
        return FreezeJob(self._host, group, server_uuid, self._exporter_module)

    def _job(self, group: str) -> FreezeJob:
        job = self._jobs.get(group)
        if job is None:
            raise FreezeFailed(f"no freeze {group[:64]!r} here")
        return job


def _in_background(step: Callable[[], None], job: FreezeJob) -> None:
    # A daemon: a service that is asked to end does so at once, and takes the freeze over when it is back.
    threading.Thread(target=step, name=f"freeze-{job.group[:8]}", daemon=True).start()


def _uuid_text(raw: bytes) -> str:
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
