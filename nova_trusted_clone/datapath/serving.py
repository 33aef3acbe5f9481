"""One store's connection at the exporter: requests in, replies out in the same order.

The source is read and hashed by helpers ahead of the reply that is being sent, so that disk,
hash and line work at the same time. What they are ahead by is signed at once. Only this thread
touches the TLS connection.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import select
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.datapath import bulk
from nova_trusted_clone.datapath.book import Draft
from nova_trusted_clone.datapath.errors import DatapathError, FrameError
from nova_trusted_clone.transport import tls

LOG = logging.getLogger(__name__)
# Requests taken from one connection before their replies are sent: each holds up to 1 MiB.
WINDOW = 4
# A reply that takes longer, because the source does not have the bytes yet, is announced so often:
# the store would otherwise take the line for dead.
WAIT_NOTICE_S = 2.0
Answer = Callable[[bulk.Request], bulk.Reply | Draft]
Sign = Callable[[Sequence[Draft]], list[bulk.Reply]]


def _helpers() -> int:
    """Two read and hash at one time, where there is a processor for each."""
    return min(2, len(os.sched_getaffinity(0)))


class _Due:
    """A reply that is owed: being made, described and not signed yet, or ready."""

    def __init__(self, future: concurrent.futures.Future[bulk.Reply | Draft]) -> None:
        self.future = future
        self.reply: bulk.Reply | None = None

    @property
    def draft(self) -> Draft | None:
        """What waits for a signature, if this does by now."""
        if self.reply is not None or not self.future.done():
            return None
        made = self.future.result()
        return made if isinstance(made, Draft) else None


class Connection:
    """Serves one connection until it ends."""

    def __init__(
        self, channel: ssl.SSLSocket, answer: Answer, sign: Sign, idle_limit_s: float
    ) -> None:
        self._channel = channel
        self._answer = answer
        self._sign = sign
        self._idle_limit_s = idle_limit_s
        self._pending: deque[_Due] = deque()

    def run(self) -> None:
        """Answer requests.

        :raises OSError: when the line breaks
        :raises FrameError: when the store does not keep to the framing
        """
        with concurrent.futures.ThreadPoolExecutor(_helpers(), "serve") as pool:
            try:
                while True:
                    self._take_requests(pool)
                    self._send_first()
            finally:
                for due in self._pending:
                    due.future.cancel()

    def _take_requests(self, pool: concurrent.futures.ThreadPoolExecutor) -> None:
        """Take what has come; wait for a request only when no reply is due."""
        while len(self._pending) < WINDOW and self._readable(bool(self._pending)):
            request = bulk.read_request(self._channel)
            self._pending.append(_Due(pool.submit(self._answer_or_error, request)))

    def _readable(self, busy: bool) -> bool:
        if self._channel.pending():
            return True
        ready, _, _ = select.select([self._channel], [], [], 0 if busy else self._idle_limit_s)
        if not ready and not busy:
            raise TimeoutError(f"the store asked for nothing for {self._idle_limit_s:.0f} s")
        return bool(ready)

    def _send_first(self) -> None:
        first, started = self._pending[0], time.monotonic()
        while not first.future.done():
            concurrent.futures.wait((first.future,), WAIT_NOTICE_S)
            if not first.future.done():
                waited = max(1, round(time.monotonic() - started))
                bulk.write_reply(self._channel, bulk.Wait(waited))
        if first.draft is not None:
            self._sign_what_is_there()
        self._pending.popleft()
        made = first.reply or first.future.result()
        assert not isinstance(made, Draft)
        bulk.write_reply(self._channel, made)

    def _sign_what_is_there(self) -> None:
        """One signature for the first reply and those behind it that are described by now; nobody waits for another's."""
        waiting = [(due, draft) for due in self._pending if (draft := due.draft) is not None]
        try:
            replies = self._sign([draft for _, draft in waiting])
        except (DatapathError, CoreError) as error:
            replies = [bulk.ErrorReply(error.code, str(error))] * len(waiting)
        for (due, _), reply in zip(waiting, replies, strict=True):
            due.reply = reply

    def _answer_or_error(self, request: bulk.Request) -> bulk.Reply | Draft:
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
