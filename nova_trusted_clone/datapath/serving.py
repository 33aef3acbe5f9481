"""One store's connection at the exporter: requests in, replies out in the same order.

The source is read and hashed by two helpers ahead of the reply that is being sent, so that disk,
hash and line work at the same time. Only this thread touches the TLS connection.
"""

from __future__ import annotations

import concurrent.futures
import logging
import select
import ssl
import time
from collections import deque
from collections.abc import Callable

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.datapath import bulk
from nova_trusted_clone.datapath.errors import DatapathError, FrameError
from nova_trusted_clone.transport import tls

LOG = logging.getLogger(__name__)
# Requests taken from one connection before their replies are sent: each holds up to 1 MiB.
WINDOW = 4
# A reply that takes longer, because the source does not have the bytes yet, is announced so often:
# the store would otherwise take the line for dead.
WAIT_NOTICE_S = 2.0
Answer = Callable[[bulk.Request], bulk.Reply]
Pending = deque[concurrent.futures.Future[bulk.Reply]]


class Connection:
    """Serves one connection until it ends."""

    def __init__(self, channel: ssl.SSLSocket, answer: Answer, idle_limit_s: float) -> None:
        self._channel = channel
        self._answer = answer
        self._idle_limit_s = idle_limit_s
        self._pending: Pending = deque()

    def run(self) -> None:
        """Answer requests.

        :raises OSError: when the line breaks
        :raises FrameError: when the store does not keep to the framing
        """
        with concurrent.futures.ThreadPoolExecutor(2, "serve") as pool:
            try:
                while True:
                    self._take_requests(pool)
                    self._send_first()
            finally:
                for future in self._pending:
                    future.cancel()

    def _take_requests(self, pool: concurrent.futures.ThreadPoolExecutor) -> None:
        """Take what has come; wait for a request only when no reply is due."""
        while len(self._pending) < WINDOW and self._readable(bool(self._pending)):
            request = bulk.read_request(self._channel)
            self._pending.append(pool.submit(self._answer_or_error, request))

    def _readable(self, busy: bool) -> bool:
        if self._channel.pending():
            return True
        ready, _, _ = select.select([self._channel], [], [], 0 if busy else self._idle_limit_s)
        if not ready and not busy:
            raise TimeoutError(f"the store asked for nothing for {self._idle_limit_s:.0f} s")
        return bool(ready)

    def _send_first(self) -> None:
        future, started = self._pending.popleft(), time.monotonic()
        while True:
            try:
                reply = future.result(WAIT_NOTICE_S)
                break
            except concurrent.futures.TimeoutError:
                waited = max(1, round(time.monotonic() - started))
                bulk.write_reply(self._channel, bulk.Wait(waited))
        bulk.write_reply(self._channel, reply)

    def _answer_or_error(self, request: bulk.Request) -> bulk.Reply:
        try:
            return self._answer(request)
        except FrameError:
            raise
        except (DatapathError, CoreError) as error:
            return bulk.ErrorReply(error.code, str(error))
        except OSError as error:
            LOG.warning("a segment could not be read: %s", error)
            return bulk.ErrorReply(
                "trusted-clone.source.gone", f"the source cannot be read: {error}"
            )

    def close(self) -> None:
        """Cut the line; ``run`` then ends."""
        tls.cut(self._channel)
