"""Events of servers' lives are told to Nova by a thread of their own.

Nova 34 that runs with native threads tells them on the thread that runs libvirt's event loop, and has the conductor look the
server up. While the broker is away, that thread waits for an answer as long as ``rpc_response_timeout``; nobody answers
libvirtd's keepalive meanwhile, libvirtd closes the connection, and Nova's next look at it waits for a lock that it holds
itself: nova-compute stands still for good. A clone makes such events on both hosts, so a broker that is started anew in mid
clone would bring that about.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from oslo_log import log as logging

LOG = logging.getLogger(__name__)


class Lifecycle:
    """Tells events one after the other, in the order in which they came."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
        """:param tell: may take as long as it likes"""
        self._tell = tell
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # It ends with the process: what is not told by then Nova finds out when it starts anew.
        threading.Thread(target=self._run, name="lifecycle-events", daemon=True).start()

    def take(self, event: Any) -> None:
        """Tell an event soon; returns at once."""
        self._events.put(event)

    def _run(self) -> None:
        while True:
            event = self._events.get()
            try:
                self._tell(event)
            except Exception:
                LOG.exception("event %s was not told", event)
