"""The store's lines to the exporter: requests under way, replies verified, broken lines made anew.

One line serves only what guests wait for; the others take everything in order. A broken or silent line is no failure: its
requests are put back and it connects again, more slowly each time, until the network has been away for its limit. A reply
that does not verify ends the transfer at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import ssl
import threading
import time
import weakref
from collections import deque
from typing import NoReturn

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.integrity.manifest import RegionTable
from nova_trusted_clone.datapath import bulk
from nova_trusted_clone.datapath.errors import FrameError, PeerError, StoreFailed
from nova_trusted_clone.datapath.exporter import NotFrozen
from nova_trusted_clone.datapath.filters.rate import RateMeter
from nova_trusted_clone.datapath.serving import WAIT_NOTICE_S
from nova_trusted_clone.datapath.staging import Staging
from nova_trusted_clone.datapath.verified import VerifiedRegions
from nova_trusted_clone.transport import tls

LOG = logging.getLogger(__name__)
SHORTEST_SILENCE_S = 2.5 * WAIT_NOTICE_S
BULK_LINES = 3


def _lines_of_this_host() -> int:
    """A single processor gains nothing from a second line, and changes threads the more."""
    return BULK_LINES if len(os.sched_getaffinity(0)) > 1 else 1


@dataclasses.dataclass(frozen=True)
class FetchSettings:
    """How the lines behave.

    :ivar bulk_lines: lines besides the one for faults; a line is bound by one processor's TLS
    :ivar window: requests under way on a line: with 1 MiB each, 12 MiB in all keep 1 GB/s busy over a round trip of 12 ms
    :ivar network_limit_s: the transfer fails when nothing came for so long though something was asked for
    """

    bulk_lines: int = dataclasses.field(default_factory=_lines_of_this_host)
    window: int = 4
    network_limit_s: float = 60.0
    first_pause_s: float = 0.05
    longest_pause_s: float = 2.0

    @property
    def silence_limit_s(self) -> float:
        """A line that says nothing for so long is given up.

        A part of the network's limit, so that a silent line is tried again several times before that and slow hosts have
        their time. Two of the exporter's notices long at least, so that a busy source is not taken for a dead line.
        """
        return max(SHORTEST_SILENCE_S, self.network_limit_s / 6)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where the exporter is, and who it must be."""

    host: str
    port: int
    certificate_der: bytes
    freeze_id: bytes


class NetworkAway(StoreFailed):
    """The exporter could not be reached for the limit."""

    code = "trusted-clone.store.network"


class Channel:
    """A TLS connection with the framing on it."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._stream = stream
        self.replies = bulk.ReplyReader(stream)

    def send(self, request: bulk.Request) -> None:
        """Send a request."""
        self._stream.sendall(bulk.encode_request(request))

    def cut(self) -> None:
        """End it from another thread."""
        tls.cut(self._stream)

    def close(self) -> None:
        """End it."""
        self._stream.close()


class Lines:
    """Opens lines, and knows since when there is trouble with them."""

    def __init__(
        self, identity: tls.ChannelIdentity, endpoint: Endpoint, settings: FetchSettings
    ) -> None:
        self._identity = identity
        self._endpoint = endpoint
        self.settings = settings
        self._lock = threading.Lock()
        self._trouble_since: float | None = None
        self._trouble = ""
        self._open: weakref.WeakSet[Channel] = weakref.WeakSet()
        self.stopped = threading.Event()
        self.received = RateMeter()

    def open(self) -> Channel:
        """Open a line and exchange HELLOs.

        :raises OSError: when the exporter cannot be reached
        :raises FrameError: when it does not speak this protocol
        """
        end = self._endpoint
        channel = Channel(
            tls.open_channel(
                self._identity,
                end.certificate_der,
                end.host,
                end.port,
                self.settings.silence_limit_s,
            )
        )
        try:
            channel.send(bulk.Hello(end.freeze_id))
            welcome = channel.replies.read()
            if not isinstance(welcome, bulk.Hello) or welcome.freeze_id != end.freeze_id:
                raise FrameError("the exporter did not answer with this freeze's WELCOME")
        except BaseException:
            channel.close()
            raise
        with self._lock:
            self._open.add(channel)
        if self.stopped.is_set():
            channel.cut()
        return channel

    def read(self, channel: Channel) -> bulk.Reply:
        """Read a reply; whatever comes shows that the network is there."""
        reply = channel.replies.read()
        with self._lock:
            self._trouble_since = None
        return reply

    def troubled(self, since: float, error: Exception) -> None:
        """A line broke that had asked for something since then.

        :raises NetworkAway: when that is longer ago than the limit
        """
        with self._lock:
            if self._trouble_since is None:
                self._trouble_since = since
                LOG.warning("the exporter is away: %s", error)
            self._trouble = str(error)
            away_s = time.monotonic() - self._trouble_since
        if away_s > self.settings.network_limit_s:
            limit = self.settings.network_limit_s
            raise NetworkAway(f"the exporter was away for more than {limit:.0f} s: {error}")

    @property
    def trouble(self) -> str:
        """What is wrong with the network now; empty when nothing is."""
        with self._lock:
            return self._trouble if self._trouble_since is not None else ""

    def stop(self) -> None:
        """Cut every line and open no more."""
        self.stopped.set()
        with self._lock:
            channels = list(self._open)
        for channel in channels:
            channel.cut()


class Line:
    """One line, for as long as there is something to fetch."""

    def __init__(self, lines: Lines, regions: VerifiedRegions, faults_only: bool) -> None:
        self._lines = lines
        self._regions = regions
        self._faults_only = faults_only
        self._under_way: deque[bulk.SegmentRequest] = deque()
        self._asked_at = 0.0

    def run(self) -> None:
        """Fetch until everything is verified, something failed, or the store stops."""
        pause_s = self._lines.settings.first_pause_s
        try:
            while not self._over():
                self._asked_at = time.monotonic()
                try:
                    self._fetch()
                    pause_s = self._lines.settings.first_pause_s
                except NotFrozen:
                    self._lines.stopped.wait(pause_s)
                except (tls.TransportError, OSError) as error:
                    self._lines.troubled(self._asked_at, error)
                    self._lines.stopped.wait(pause_s)
                    pause_s = min(pause_s * 2, self._lines.settings.longest_pause_s)
                finally:
                    self._put_back()
        except (StoreFailed, PeerError) as error:
            LOG.error("the transfer ends: %s", error)
            self._regions.fail(error)
        except (CoreError, FrameError) as error:
            LOG.error("the transfer ends, and what it brought is not served: %s", error)
            self._regions.fail(error, distrust=True)
        except Exception as error:
            # A fault of ours must not leave guests waiting for a line that is no more.
            LOG.exception("a line to the exporter broke down")
            self._regions.fail(error)

    def _over(self) -> bool:
        done = self._regions.summary is not None or self._regions.failure is not None
        return done or self._lines.stopped.is_set()

    def _put_back(self) -> None:
        while self._under_way:
            self._regions.put_back(self._under_way.pop())

    def _fetch(self) -> None:
        with contextlib.closing(self._lines.open()) as channel:
            while not self._over():
                self._ask(channel)
                if self._under_way:
                    self._take(channel)

    def _ask(self, channel: Channel) -> None:
        while len(self._under_way) < self._lines.settings.window:
            wait_s = 0 if self._under_way else 0.5
            request = self._regions.next_request(self._faults_only, wait_s)
            if request is None:
                return
            self._send(channel, request)

    def _send(self, channel: Channel, request: bulk.SegmentRequest) -> None:
        if not self._under_way:
            self._asked_at = time.monotonic()
        self._under_way.append(request)
        channel.send(request)

    def _take(self, channel: Channel) -> None:
        reply = self._lines.read(channel)
        self._asked_at = time.monotonic()
        match reply:
            case bulk.Wait():
                return
            case bulk.ErrorReply(code, text):
                _raise(code, text)
            case bulk.SegmentReply():
                self._lines.received.add(len(reply.data))
                still_missing = self._accept(reply)
                request = self._under_way.popleft()
                if still_missing:
                    self._send(channel, dataclasses.replace(request, wanted_bits=still_missing))
            case _:
                raise FrameError("a reply that answers no request")

    def _accept(self, reply: bulk.SegmentReply) -> int:
        try:
            return self._regions.accept(self._under_way[0], reply)
        except OSError as error:
            # Not the network's: the store's own disk.
            raise StoreFailed(
                f"verified pages cannot be kept: {error}", code="trusted-clone.store.disk"
            ) from error


def _raise(code: str, text: str) -> NoReturn:
    if code == NotFrozen.code:
        raise NotFrozen(text)
    raise PeerError(f"the exporter: {text}", code=code)


class EarlyLine:
    """Copies disks before the freeze, again and again, until it is told to end."""

    def __init__(self, lines: Lines, staging: Staging, regions: RegionTable) -> None:
        self._lines = lines
        self._staging = staging
        self._regions = regions
        self.ended = threading.Event()
        self.passes = 0

    def stop(self) -> None:
        """Copy no more."""
        self.ended.set()
        self._lines.stop()

    def run(self) -> None:
        """Copy until the end. Trouble here costs nothing but the head start."""
        self._staging.prepare(self._regions)
        while not self.ended.wait(0.2):
            try:
                with contextlib.closing(self._lines.open()) as channel:
                    while not self.ended.is_set():
                        self._copy_all(channel)
                        self.passes += 1
                        # One pass a second follows the source closely enough; the rest is fetched anyway.
                        self.ended.wait(1.0)
            except (OSError, tls.TransportError, FrameError, PeerError) as error:
                LOG.info("copying disks before the freeze: %s", error)

    def _copy_all(self, channel: Channel) -> None:
        for region in self._regions.values():
            for index in range(region.segments):
                if self.ended.is_set():
                    return
                self._copy(
                    channel, bulk.EarlyRequest(region.id, index, self._staging.known(region, index))
                )

    def _copy(self, channel: Channel, request: bulk.EarlyRequest) -> None:
        channel.send(request)
        while isinstance(reply := channel.replies.read(), bulk.Wait):
            continue
        if isinstance(reply, bulk.ErrorReply):
            raise PeerError(reply.text, code=reply.code)
        if not isinstance(reply, bulk.EarlyReply):
            raise FrameError("the exporter did not answer EARLY with EARLY_REPLY")
        if len(reply.data):
            self._lines.received.add(len(reply.data))
            self._staging.keep(self._regions[request.region], request.index, reply.data)
