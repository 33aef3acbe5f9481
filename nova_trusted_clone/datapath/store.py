"""The store: fetches one freeze for this host, keeps what is verified, serves it to the clones here.

One store is one freeze on one host; the clones of that freeze share it, so each page comes over the network once.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import shutil
import threading
from collections.abc import Callable
from typing import Any

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.integrity.manifest import FREEZE_ID_BYTES, RegionTable
from nova_trusted_clone.datapath.errors import DatapathError, StoreFailed
from nova_trusted_clone.datapath.fetcher import EarlyLine, Endpoint, FetchSettings, Line, Lines
from nova_trusted_clone.datapath.staging import Staging
from nova_trusted_clone.datapath.verified import VerifiedRegions, Verifier
from nova_trusted_clone.transport import tls

LOG = logging.getLogger(__name__)
PAGE_KEY_BYTES = 32
BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")
MakeVerifier = Callable[[bytes, bytes], Verifier]


class OtherFreeze(DatapathError):
    """A store is asked to do something for another freeze than its own."""

    code = "trusted-clone.store.other-freeze"


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be fetched: a sibling's must be the very same."""

    freeze_id: bytes
    page_key: bytes
    regions: RegionTable

    def to_json(self) -> dict[str, Any]:
        """For the file by which a restarted store knows what its kept pages are."""
        return {
            "freeze_id": self.freeze_id.hex(),
            "page_key": self.page_key.hex(),
            "regions": self.regions.to_rows(),
            # Pages in memory outlive a killed process but not the machine's crash.
            "boot_id": BOOT_ID.read_text().strip(),
        }


class Store:
    """Everything of a store but its control channel and its mount. Threads may use all of it."""

    def __init__(
        self,
        directory: pathlib.Path,
        settings: FetchSettings | None = None,
        make_verifier: MakeVerifier = Verifier,
    ) -> None:
        """Make a store that is not connected.

        :param directory: private to the store; holds the pages
        :param make_verifier: others than the default are for the bench
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._settings = settings or FetchSettings()
        self._make_verifier = make_verifier
        self._identity = tls.make_channel_identity()
        self._lock = threading.RLock()
        self._endpoint: Endpoint | None = None
        self._order: Order | None = None
        self._lines: Lines | None = None
        self._early: EarlyLine | None = None
        self._regions: VerifiedRegions | None = None
        self._mode = ""
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._staging = Staging(directory)

    @property
    def certificate_der(self) -> bytes:
        """This end's certificate, which the transcript carries."""
        return self._identity.certificate_der

    # -- what it is told --

    def connect(self, host: str, port: int, peer_certificate: bytes, freeze_id: bytes) -> None:
        """Say where the exporter is. Repeatable with the same freeze and peer; a new address then counts.

        :raises OtherFreeze: when the store serves another freeze or exporter already
        :raises MalformedInput: names the field
        """
        if len(freeze_id) != FREEZE_ID_BYTES:
            raise MalformedInput(f"freeze_id: {len(freeze_id)} bytes, expected {FREEZE_ID_BYTES}")
        if not 0 < port < 1 << 16:
            raise MalformedInput(f"port: {port}: expected 1 to 65535")
        tls.require_certificate(peer_certificate)
        endpoint = Endpoint(host, port, peer_certificate, freeze_id)
        with self._lock:
            self._require_running()
            known = self._endpoint
            if known is None:
                self._endpoint = endpoint
            elif endpoint != known:
                raise OtherFreeze("connect: the store belongs to another freeze or exporter")

    def begin_early(self, regions: RegionTable) -> None:
        """Copy these disks before the freeze, until ``fetch``; repeatable."""
        with self._lock:
            self._require_running()
            if self._order is not None or self._early is not None:
                return
            self._early = EarlyLine(self._new_lines(self._settings), self._staging, regions)
            self._start(self._early.run, "early")

    def fetch(
        self,
        page_key: bytes,
        freeze_id: bytes,
        regions: RegionTable,
        mode: str = "lazy",
        network_limit_s: float | None = None,
    ) -> None:
        """Begin to fetch. Repeatable by a sibling with the very same freeze.

        :param mode: ``lazy``: serve pages as they come; ``eager``: serve none before all are verified
        :raises OtherFreeze: when it is not the freeze that is being fetched
        :raises OSError: when there is no room
        """
        _require_fetch(page_key, regions, mode)
        order = Order(freeze_id, page_key, regions)
        with self._lock:
            self._require_running()
            if self._endpoint is None or freeze_id != self._endpoint.freeze_id:
                raise OtherFreeze("fetch: freeze_id is not the one of connect")
            if self._order is not None:
                if self._order.to_json() != order.to_json():
                    raise OtherFreeze("fetch: the store fetches a freeze with other regions or key")
                return
            settings = self._settings
            if network_limit_s is not None:
                settings = dataclasses.replace(settings, network_limit_s=network_limit_s)
            self._begin(order, mode, settings)

    def _begin(self, order: Order, mode: str, settings: FetchSettings) -> None:
        if self._early is not None:
            self._early.stop()
        kept = _kept_pages(self._directory, order)
        verifier = self._make_verifier(order.freeze_id, order.page_key)
        regions = VerifiedRegions(order.freeze_id, order.regions, kept, verifier, self._staging)
        self._order, self._mode, self._regions = order, mode, regions
        self._lines = lines = self._new_lines(settings)
        for number in range(settings.bulk_lines + 1):
            line = Line(lines, regions, faults_only=number == 0)
            self._start(line.run, f"line-{number}")

    def _new_lines(self, settings: FetchSettings) -> Lines:
        if self._endpoint is None:
            raise OtherFreeze("the store was not told yet where the exporter is")
        return Lines(self._identity, self._endpoint, settings)

    def _start(self, run: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def abort(self, reason: str) -> None:
        """Fetch nothing more; readers of what is not verified get an error."""
        with self._lock:
            regions, lines, early = self._regions, self._lines, self._early
        if early is not None:
            early.stop()
        if regions is not None:
            regions.fail(StoreFailed(reason, code="trusted-clone.store.aborted"))
        if lines is not None:
            lines.stop()

    def close(self) -> None:
        """End everything and remove the pages; harmless when repeated."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        self.abort("the store was stopped")
        for thread in self._threads:
            thread.join(self._settings.silence_limit_s)
        if not any(thread.is_alive() for thread in self._threads):
            self._staging.close()
            if self._regions is not None:
                self._regions.close()
        shutil.rmtree(self._directory / "pages", ignore_errors=True)

    # -- what it tells --

    @property
    def regions(self) -> VerifiedRegions:
        """The regions.

        :raises OtherFreeze: before ``fetch``
        """
        with self._lock:
            if self._regions is None:
                raise OtherFreeze("the store was not told yet what to fetch")
            return self._regions

    @property
    def table(self) -> RegionTable:
        """The regions' table; empty before ``fetch``."""
        with self._lock:
            return self._order.regions if self._order is not None else RegionTable(())

    @property
    def serves(self) -> bool:
        """Whether verified pages may be read: in eager mode only when all are verified."""
        with self._lock:
            regions, mode = self._regions, self._mode
        return regions is not None and (mode == "lazy" or regions.summary is not None)

    def status(self) -> dict[str, Any]:
        """How far it is. ``root`` and ``counts`` are there when everything is verified."""
        with self._lock:
            regions, lines, early, table = self._regions, self._lines, self._early, self.table
        found: dict[str, Any] = {
            "phase": "early" if early is not None else "idle",
            "reason": "",
            "code": "",
            "complete": False,
            "root": None,
            "counts": None,
            "mode": self._mode,
            "early_passes": early.passes if early is not None else 0,
        }
        if regions is not None and lines is not None:
            found.update(_progress(regions, lines, table))
        return found

    def _require_running(self) -> None:
        if self._stopped:
            raise StoreFailed("the store was stopped")


def _progress(regions: VerifiedRegions, lines: Lines, table: RegionTable) -> dict[str, Any]:
    failure, summary, verified = regions.failure, regions.summary, regions.progress()
    phase = "waiting" if lines.trouble else "fetching"
    if failure is not None:
        phase = "failed"
    elif summary is not None:
        phase = "complete"
    return {
        "phase": phase,
        "reason": str(failure) if failure is not None else "",
        "code": failure.code if failure is not None else "",
        "trouble": lines.trouble,
        "complete": summary is not None,
        "root": summary[0] if summary is not None else None,
        "counts": dataclasses.asdict(summary[1]) if summary is not None else None,
        "pages_verified": sum(verified.values()),
        "pages_total": sum(region.leaves for region in table.values()),
        "regions": {str(number): count for number, count in verified.items()},
        "bytes_received": lines.received.total,
        "bytes_per_s": lines.received.per_second(),
        "verified_bytes_per_s": regions.verified_rate.per_second(),
        "faults": regions.faults,
        "promoted_pages": regions.promoted_leaves,
    }


def _require_fetch(page_key: bytes, regions: RegionTable, mode: str) -> None:
    if len(page_key) != PAGE_KEY_BYTES:
        raise MalformedInput(f"page_key: {len(page_key)} bytes, expected {PAGE_KEY_BYTES}")
    if not regions:
        raise MalformedInput("regions: there is none")
    if mode not in ("lazy", "eager"):
        raise MalformedInput(f"mode: {mode!r}: expected lazy or eager")


def _kept_pages(directory: pathlib.Path, order: Order) -> pathlib.Path:
    """The directory of pages: as a killed store of the same order left it, else empty."""
    pages = directory / "pages"
    record, wanted = pages / "order.json", order.to_json()
    try:
        if json.loads(record.read_text()) == wanted:
            LOG.info("going on with the pages that were verified before")
            return pages
    except (FileNotFoundError, ValueError):
        LOG.debug("no pages were kept")
    if pages.exists():
        shutil.rmtree(pages)
    pages.mkdir(mode=0o700)
    record.touch(mode=0o600)
    temporary = pages / ".order.json"
    temporary.write_text(json.dumps(wanted))
    temporary.replace(record)
    return pages
