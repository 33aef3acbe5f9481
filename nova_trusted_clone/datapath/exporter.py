"""The exporter: serves one freeze's segments, signed, to the stores that were admitted.

One exporter is one freeze. Its page key is made for it and never leaves its process. It listens
before the freeze, when it has at most disks to offer that still change (``offer_early``);
``publish`` gives it the frozen regions. From then on a signer walks over all segments whenever no
store keeps it busy, so that the root is known at the end whoever fetched what.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.integrity.leaf import LEAF_BYTES, Buffer
from nova_trusted_clone.core.integrity.manifest import Counts, Region, RegionTable
from nova_trusted_clone.core.integrity.segment import SegmentManifest, each_run
from nova_trusted_clone.core.integrity.signed import SignedManifest
from nova_trusted_clone.datapath import bulk
from nova_trusted_clone.datapath.book import Book, Draft, Sealer
from nova_trusted_clone.datapath.errors import DatapathError, FrameError, SourceGone
from nova_trusted_clone.datapath.filters.rate import RateMeter
from nova_trusted_clone.datapath.serving import Connection
from nova_trusted_clone.datapath.sources import SegmentSource
from nova_trusted_clone.transport import tls

LOG = logging.getLogger(__name__)
ReplyFilter = Callable[[bulk.SegmentReply], bulk.SegmentReply]


class NotFrozen(DatapathError):
    """Asked for a frozen segment before the freeze: worth another try."""

    code = "trusted-clone.exporter.not-frozen"


class UnknownPlace(DatapathError):
    """Asked for a region or a segment that there is not."""

    code = "trusted-clone.exporter.unknown"


@dataclasses.dataclass(frozen=True)
class ExporterSettings:
    """Limits.

    :ivar handshake_limit_s: a connection that has not said who it is by then is closed
    :ivar idle_limit_s: a store that asks for nothing for so long is let go; it connects again when
        it needs something
    :ivar send_limit_s: a store that takes nothing for so long is let go
    """

    max_connections: int = 64
    max_half_open: int = 16
    handshake_limit_s: float = 10.0
    idle_limit_s: float = 300.0
    send_limit_s: float = 60.0


class Exporter:
    """Serves one freeze."""

    def __init__(
        self,
        freeze_id: bytes,
        page_key: Ed25519PrivateKey,
        directory: pathlib.Path,
        *,
        settings: ExporterSettings | None = None,
        sealer: Sealer | None = None,
        reply_filter: ReplyFilter = lambda reply: reply,
    ) -> None:
        """Make an exporter that does not listen yet.

        :param directory: for an unnamed file of manifests
        :param sealer: what describes and signs segments; others than the default are for the bench
        :param reply_filter: what changes replies on their way out; others than the default are for
            tests
        """
        self._freeze_id = freeze_id
        self._page_key = page_key
        self._directory = directory
        self._settings = settings or ExporterSettings()
        self._sealer = sealer or Sealer.of(freeze_id, page_key)
        self._reply_filter = reply_filter
        self._identity = tls.make_channel_identity()
        self._context = tls.server_context(self._identity)
        self._lock = threading.Lock()
        self._admitted: dict[str, bytes] = {}
        self._connections: dict[Connection, bytes] = {}
        self._half_open: dict[ssl.SSLSocket, None] = {}
        self._sources: dict[int, SegmentSource] = {}
        self._early: dict[int, SegmentSource] = {}
        self._book: Book | None = None
        self._failed = ""
        self._closed = threading.Event()
        self._listener: socket.socket | None = None
        self._served = RateMeter()
        self._last_served = 0.0

    @property
    def certificate_der(self) -> bytes:
        """This end's certificate, which the transcript carries."""
        return self._identity.certificate_der

    @property
    def page_key_public(self) -> bytes:
        """The page key's public part, 32 bytes, which the source's quote vouches for."""
        return self._page_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    # -- what it serves --

    def offer_early(self, sources: Iterable[SegmentSource]) -> None:
        """Offer disks as they are before the freeze."""
        with self._lock:
            self._early = {source.region.id: source for source in sources}

    def publish(self, sources: Iterable[SegmentSource]) -> None:
        """Serve the frozen regions from now on; once only.

        :raises DatapathError: when it was done before
        :raises MalformedInput: when two regions have one id or name
        """
        by_id = {source.region.id: source for source in sources}
        table = RegionTable(source.region for source in by_id.values())
        with self._lock:
            if self._book is not None:
                raise DatapathError("the frozen regions are published already")
            self._sources, self._early = by_id, {}
            self._book = Book(self._freeze_id, table, self._directory, self._sealer)
        threading.Thread(target=self._sign_all, name="signer", daemon=True).start()

    def fail(self, reason: str) -> None:
        """Serve nothing more, for this reason; the first one stays."""
        with self._lock:
            self._failed = self._failed or reason
        LOG.error("the exporter failed: %s", reason)

    # -- whom it serves --

    def admit(self, certificate_der: bytes, clone_id: str) -> None:
        """Serve the store with this certificate, for this clone; repeatable.

        :raises TransportError: when it is no certificate
        """
        tls.add_peer(self._context, certificate_der)
        with self._lock:
            self._admitted[clone_id] = certificate_der

    def dismiss(self, clone_id: str) -> None:
        """Serve a clone no more; its store's connections end with its last clone."""
        with self._lock:
            certificate = self._admitted.pop(clone_id, None)
            if certificate is None or certificate in self._admitted.values():
                return
            ended = [c for c, der in self._connections.items() if der == certificate]
        for connection in ended:
            connection.close()

    def listen(self, address: str, port: int = 0) -> int:
        """Listen and return the port.

        :raises OSError: when the port cannot be had
        """
        self._listener = socket.create_server((address, port), backlog=64)
        threading.Thread(target=self._accept, name="accept", daemon=True).start()
        return int(self._listener.getsockname()[1])

    def status(self) -> dict[str, object]:
        """How far signing and serving are, without blocking on either."""
        with self._lock:
            book, failed, clones = self._book, self._failed, sorted(self._admitted)
            connections = len(self._connections)
        root = book.root() if book is not None else None
        counts = book.counts if book is not None else Counts()
        return {
            "frozen": book is not None,
            "failed": failed,
            "clones": clones,
            "connections": connections,
            "counts": dataclasses.asdict(counts),
            "root": root[0] if root else None,
            "served_bytes": self._served.total,
            "bytes_per_s": self._served.per_second(),
        }

    def root(self) -> tuple[bytes, Counts] | None:
        """The manifest root and the counts, once every segment is signed."""
        with self._lock:
            book = self._book
        return book.root() if book is not None else None

    def close(self) -> None:
        """Stop listening, cut every connection, forget the manifests."""
        self._closed.set()
        if self._listener is not None:
            # Closing alone does not wake a thread that waits in accept(2).
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            connections, book = list(self._connections), self._book
        for connection in connections:
            connection.close()
        if book is not None:
            book.close()

    # -- connections --

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._closed.is_set():
            try:
                raw, peer = self._listener.accept()
            except OSError as error:
                if not self._closed.is_set():
                    self.fail(f"it can no longer be reached: {error}")
                return
            if len(self._connections) >= self._settings.max_connections:
                LOG.warning("too many connections: %s is turned away", peer[0])
                raw.close()
                continue
            threading.Thread(target=self._serve, args=(raw, peer[0]), daemon=True).start()

    def _serve(self, raw: socket.socket, peer: str) -> None:
        try:
            raw.settimeout(self._settings.handshake_limit_s)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wrap = self._context.wrap_socket
            with wrap(raw, server_side=True, do_handshake_on_connect=False) as channel:
                self._greet(channel)
                self._serve_channel(channel)
        except (OSError, FrameError, tls.TransportError) as error:
            LOG.info("connection of %s ended: %s", peer, error)
            # Closed already where TLS took it over.
            raw.close()

    def _greet(self, channel: ssl.SSLSocket) -> None:
        """Handshake and HELLO, within their limit, as one of a bounded number."""
        self._remember_half_open(channel)
        try:
            channel.do_handshake()
            with self._lock:
                admitted = frozenset(self._admitted.values())
            tls.require_peer(channel, admitted)
            hello = bulk.read_request(channel)
            if not isinstance(hello, bulk.Hello) or hello.freeze_id != self._freeze_id:
                raise FrameError("the store did not begin with this freeze's HELLO")
            bulk.write_reply(channel, bulk.Hello(self._freeze_id))
            channel.settimeout(self._settings.send_limit_s)
        finally:
            with self._lock:
                self._half_open.pop(channel, None)

    def _remember_half_open(self, channel: ssl.SSLSocket) -> None:
        """Make room for a connection that has not said who it is: the oldest such one goes.

        A real handshake takes milliseconds, so silent connections cannot keep a store out.
        """
        with self._lock:
            while len(self._half_open) >= self._settings.max_half_open:
                oldest = next(iter(self._half_open))
                del self._half_open[oldest]
                tls.cut(oldest)
            self._half_open[channel] = None

    def _serve_channel(self, channel: ssl.SSLSocket) -> None:
        connection = Connection(channel, self._answer, self._sign, self._settings.idle_limit_s)
        certificate = channel.getpeercert(True) or b""
        with self._lock:
            # Dismissed between the handshake and here: then there is nobody to serve.
            if certificate not in self._admitted.values() or self._closed.is_set():
                return
            self._connections[connection] = certificate
        try:
            connection.run()
        finally:
            with self._lock:
                self._connections.pop(connection, None)

    # -- answers --

    def _answer(self, request: bulk.Request) -> bulk.Reply | Draft:
        if self._failed:
            raise DatapathError(self._failed, code="trusted-clone.exporter.failed")
        self._last_served = time.monotonic()
        match request:
            case bulk.SegmentRequest():
                return self._segment(request)
            case bulk.EarlyRequest():
                return self._early_segment(request)
        raise FrameError("HELLO stands only at the beginning")

    def _source(self, sources: dict[int, SegmentSource], region: int, index: int) -> SegmentSource:
        source = sources.get(region)
        if source is None or index >= source.region.segments:
            raise UnknownPlace(f"there is no region {region} segment {index}")
        return source

    def _segment(self, request: bulk.SegmentRequest) -> bulk.Reply | Draft:
        with self._lock:
            book, sources = self._book, self._sources
        if book is None:
            raise NotFrozen("the server is not frozen yet")
        source = self._source(sources, request.region, request.index)
        signed = book.signed(source.region, request.index)
        if signed is not None and not request.wanted_bits:
            return self._reply(source.region, request.index, signed, b"")
        data = self._read(source, request.index)
        if signed is None:
            draft = book.draft(source.region, request.index, data)
            return dataclasses.replace(
                draft, leaves=_wanted(draft.manifest, request.wanted_bits, data)
            )
        manifest = SegmentManifest.decode(signed.manifest)
        leaves = _wanted(manifest, request.wanted_bits, data)
        return self._reply(source.region, request.index, signed, leaves)

    def _sign(self, drafts: Sequence[Draft]) -> list[bulk.Reply]:
        """Sign what is to be sent together."""
        assert self._book is not None
        return [
            self._reply(draft.region, draft.manifest.index, signed, draft.leaves)
            for draft, signed in zip(drafts, self._book.sign(drafts), strict=True)
        ]

    def _reply(
        self, region: Region, index: int, signed: SignedManifest, leaves: Buffer
    ) -> bulk.Reply:
        self._served.add(len(leaves))
        return self._reply_filter(bulk.SegmentReply(region.id, index, signed, leaves))

    def _read(self, source: SegmentSource, index: int) -> Buffer:
        """Read a frozen segment; when one is gone the freeze as a whole is."""
        try:
            return source.read(index)
        except (SourceGone, OSError) as error:
            self.fail(f"the frozen server cannot be read: {error}")
            raise

    def _early_segment(self, request: bulk.EarlyRequest) -> bulk.EarlyReply:
        with self._lock:
            early = self._early
        data = self._source(early, request.region, request.index).read(request.index)
        same = hashlib.sha256(data).digest() == request.known
        self._served.add(0 if same else len(data))
        return bulk.EarlyReply(request.region, request.index, b"" if same else data)

    def _sign_all(self) -> None:
        """Sign what no store asked for. While stores ask, they are served first; but this never
        stands still for long."""
        assert self._book is not None
        try:
            while (place := self._book.next_unknown()) is not None:
                waited = 0
                while time.monotonic() - self._last_served < 0.1 and waited < 10:
                    self._closed.wait(0.05)
                    waited += 1
                if self._closed.is_set() or self._failed:
                    return
                region, index = place
                if self._book.signed(region, index) is None:
                    data = self._sources[region.id].read(index)
                    self._book.sign([self._book.draft(region, index, data)])
            self._book.root()
        except (DatapathError, CoreError, OSError) as error:
            if not self._closed.is_set():
                self.fail(f"the frozen server cannot be read: {error}")


def _wanted(manifest: SegmentManifest, wanted_bits: int, data: Buffer) -> Buffer:
    """The wanted leaves that are not zero; without a copy where they lie together."""
    view = memoryview(data).cast("B")
    bits = manifest.present_bits & wanted_bits
    runs = [view[start * LEAF_BYTES : stop * LEAF_BYTES] for start, stop in each_run(bits)]
    return runs[0] if len(runs) == 1 else b"".join(runs)
