"""One worker of the conductor, put together from its options, from start to stop.

Leans on nova.rpc (get_server) and oslo_service's threading backend.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import pathlib
from collections.abc import Callable
from typing import Any

import oslo_messaging as messaging
from nova import rpc
from oslo_log import log as logging
from oslo_service import service

from nova_trusted_clone.conductor.claims import Claims
from nova_trusted_clone.conductor.conductor import Conductor
from nova_trusted_clone.conductor.contexts import Contexts
from nova_trusted_clone.conductor.endpoint import Endpoint
from nova_trusted_clone.conductor.leases import Lease
from nova_trusted_clone.conductor.ordering import Ordering
from nova_trusted_clone.conductor.orders import Orders
from nova_trusted_clone.conductor.records import Listener, Records, utc_now
from nova_trusted_clone.conductor.servers import Servers
from nova_trusted_clone.conductor.stale import Stale
from nova_trusted_clone.conductor.telling import Compute, Telling
from nova_trusted_clone.conductor.work import Gatherer, Threads
from nova_trusted_clone.db.engine import Database
from nova_trusted_clone.db.store import Store
from nova_trusted_clone.rpc import CONDUCTOR_TOPIC

LOG = logging.getLogger(__name__)

TELLING_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Pools:
    """What orders freezes, and what tells hosts of ends."""

    ordering: concurrent.futures.Executor
    telling: concurrent.futures.Executor

    @classmethod
    def of_threads(cls, ordering: int) -> Pools:
        """Return pools of threads, so many of which order."""
        return cls(
            concurrent.futures.ThreadPoolExecutor(ordering, "ordering"),
            concurrent.futures.ThreadPoolExecutor(TELLING_THREADS, "telling"),
        )


class Worker:
    """One worker's parts, joined."""

    def __init__(
        self,
        database: Database,
        options: Any,
        compute: Compute,
        servers: Servers,
        listener: Listener,
        lease: Lease,
        *,
        pools: Pools | None = None,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        """:param options: of group [trusted_clone_conductor]
        :param pools: what does the work; threads unless given
        """
        self._pools = pools or Pools.of_threads(options.ordering_threads)
        store = Store.of(database)
        records, contexts = Records(store.clones, listener, now), Contexts()
        orders = Orders(
            pathlib.Path(options.signer_path),
            pathlib.Path(options.policy_file),
            options.order_lifetime_s,
        )
        telling = Telling(compute, self._pools.telling, options.retry_limit_s)
        claims = Claims(store.groups, records, orders)
        anchors = pathlib.Path(options.anchors_file)
        self.conductor = Conductor(store, records, claims, contexts, telling, anchors, self.wake)
        ordering = Ordering(
            store,
            records,
            orders,
            compute,
            telling,
            contexts,
            lease,
            retry_limit_s=options.retry_limit_s,
            threads=options.ordering_threads,
        )
        self.gatherer = Gatherer(
            store.freezes,
            records,
            ordering,
            contexts,
            lease,
            self._pools.ordering,
            self.conductor.dismiss,
            limit_s=options.gather_limit_s,
        )
        self.stale = Stale(
            store,
            records,
            compute,
            servers,
            lease,
            self.gatherer.order,
            self.conductor.cancel,
            self.conductor.end,
            silence_s=options.silence_s,
            limit_s=options.stale_limit_s,
        )
        self._threads = Threads(self.gatherer, self.stale.look, options.stale_check_s)

    def wake(self) -> None:
        """Look at the claims now."""
        self._threads.wake()

    def start(self) -> None:
        """Begin the worker's own threads."""
        self._threads.start()

    def stop(self) -> None:
        """End them."""
        self._threads.stop()
        for pool in (self._pools.ordering, self._pools.telling):
            pool.shutdown(wait=False, cancel_futures=True)


class ConductorService(service.Service):  # type: ignore[misc]
    """A process of nova-trusted-clone-conductor."""

    def __init__(self, host: str, make_worker: Any) -> None:
        """:param make_worker: called in the process, after the fork: a database's connections must not cross it"""
        super().__init__()
        self._host = host
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._server: Any = None

    def start(self) -> None:
        """Begin to answer."""
        self._worker = self._make_worker()
        target = messaging.Target(topic=CONDUCTOR_TOPIC, server=self._host)
        self._server = rpc.get_server(target, [Endpoint(self._worker.conductor)])
        self._server.start()
        self._worker.start()
        LOG.info("answering on topic %s as %s", CONDUCTOR_TOPIC, self._host)

    def stop(self, graceful: bool = False) -> None:
        """Answer no more; calls that are being answered are."""
        if self._server is not None:
            self._server.stop()
            self._server.wait()
        if self._worker is not None:
            self._worker.stop()
        super().stop(graceful)
