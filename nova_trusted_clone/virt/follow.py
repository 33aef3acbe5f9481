"""What the conductor hears of the clones that this host receives, and what becomes of a running server whose clone fails.

Progress is told as it comes and forgotten when nobody listens. An end is told through the outbox: until it was heard. After a
restart every end is told again that no mark in the clone's directory says was told.
"""

from __future__ import annotations

import pathlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import oslo_messaging as messaging
from nova import context as nova_context
from nova import exception as nova_exception
from oslo_log import log as logging

from nova_trusted_clone.clone import records
from nova_trusted_clone.rpc.conductor import ConductorAPI
from nova_trusted_clone.rpc.errors import CloneError, Unavailable
from nova_trusted_clone.virt import servers
from nova_trusted_clone.virt.outbox import Later, Outbox
from nova_trusted_clone.virt.reception import Ending, Receptions
from nova_trusted_clone.virt.service import Engine

LOG = logging.getLogger(__name__)
PROGRESS_S = 2.0
PAGE_BYTES = 4096
TOLD = "told"
# The engine's phases that the conductor's table knows by the same name; the ends have messages of their own.
REPORTED = frozenset(("attesting", "fetching", "restoring", "provisional"))
MAX_QUEUED = 1024


class Follower:
    """Listens to the engine and tells the conductor."""

    def __init__(
        self, conductor: ConductorAPI, receptions: Receptions, state: pathlib.Path
    ) -> None:
        """:param state: the engine's ``state_path``"""
        self._conductor = conductor
        self._receptions = receptions
        self._clones = state / "clones"
        self._outbox = Outbox(state / "outbox", self.deliver)
        self._news: queue.Queue[Mapping[str, Any]] = queue.Queue(MAX_QUEUED)
        self._closing = threading.Event()
        self._rates: dict[str, tuple[float, int]] = {}
        self._expected: set[str] = set()

    def start(self, engine: Engine) -> None:
        """Tell what a former service could not, and follow from now on."""
        self._outbox.start()
        threading.Thread(target=self._report_news, name="clone-news", daemon=True).start()
        threading.Thread(
            target=self._report_progress, args=(engine,), name="clone-progress", daemon=True
        ).start()

    def close(self) -> None:
        """Follow no more; what must be heard waits for the next service."""
        self._closing.set()
        self._outbox.close()

    def listen(self, status: Mapping[str, Any]) -> None:
        """Take note of a clone's phase; the engine calls this in a thread of its own, after a restart for every end again."""
        clone_id, phase = str(status["clone_id"]), status["phase"]
        if (self._clones / clone_id / TOLD).exists():
            return
        if phase == "complete":
            evidence = records.read(self._clones / clone_id / "evidence.json")
            self._outbox.put(f"{clone_id}-complete", {**_end(status), "evidence": evidence})
        elif phase == "failed" and self._receptions.of_clone(clone_id) is None:
            # Where spawn() waits, it tells that itself, together with whether another host may do.
            quiet = clone_id in self._expected
            self._outbox.put(f"{clone_id}-failed", {**_end(status), "quiet": quiet})
        elif phase in REPORTED:
            self._offer(status)

    def expect_end(self, clone_id: str) -> None:
        """Nova itself is ending this clone's server: its end is no error of the server."""
        self._expected.add(clone_id)

    def unborn(
        self, group: str, server: str, clone_id: str | None, ending: Ending, *, retry: bool
    ) -> None:
        """Tell that a clone ended before its server ran: at once, so that it comes before another host's claim; else later."""
        message = {
            "group": group,
            "server": server,
            "clone_id": clone_id,
            "reason": ending.reason,
            "code": ending.code,
            "retry": retry,
        }
        try:
            self._tell_failure(message)
        except Later as error:
            LOG.warning("%s; it will be told later", error)
            self._outbox.put(f"{clone_id or server}-unborn", message)

    # -- the outbox's messages ----------------------------------------------------------------------------------------

    def deliver(self, message: Mapping[str, Any]) -> None:
        """Have one end heard.

        :raises Later: when it cannot be heard now
        """
        if "evidence" in message:
            context = nova_context.get_admin_context()
            _tell(
                lambda: self._conductor.complete(context, message["clone_id"], message["evidence"])
            )
        elif "group" in message:
            self._tell_failure(message)
        else:
            self._tell_death(message)
        self._mark_told(message["clone_id"])

    def _tell_death(self, message: Mapping[str, Any]) -> None:
        """A clone failed while its server ran: the server goes first, then the record."""
        server, clone_id = str(message["server"]), str(message["clone_id"])
        try:
            if not message["quiet"]:
                servers.clone_failed(server, clone_id, str(message["reason"]))
            group = servers.group_of(server)
        except (messaging.MessagingException, nova_exception.NovaException) as error:
            raise Later(f"server {server}: nova-conductor: {error}") from error
        if group is not None:
            self._tell_failure({**message, "group": group, "retry": False})

    def _tell_failure(self, message: Mapping[str, Any]) -> None:
        context = nova_context.get_admin_context()
        _tell(
            lambda: self._conductor.fail(
                context,
                message["group"],
                message["server"],
                message["clone_id"],
                message["reason"],
                message["code"],
                retry=message["retry"],
            )
        )

    def _mark_told(self, clone_id: str | None) -> None:
        directory = self._clones / str(clone_id)
        if clone_id and directory.is_dir():
            (directory / TOLD).touch(mode=0o600)

    # -- progress -----------------------------------------------------------------------------------------------------

    def _offer(self, status: Mapping[str, Any]) -> None:
        try:
            self._news.put_nowait(status)
        except queue.Full:
            LOG.debug("clone %s: nobody takes its progress", status["clone_id"])

    def _report_news(self) -> None:
        while not self._closing.is_set():
            try:
                status = self._news.get(timeout=1.0)
            except queue.Empty:
                continue
            self._report(status)

    def _report_progress(self, engine: Engine) -> None:
        while not self._closing.wait(PROGRESS_S):
            try:
                running = [s for s in engine.destination.clones() if s["phase"] in REPORTED]
            except Exception:
                LOG.exception("asking the engine for its clones")
                continue
            for status in running:
                self._offer(status)

    def _report(self, status: Mapping[str, Any]) -> None:
        report: dict[str, Any] = {"phase": status["phase"], "reason": str(status["reason"])}
        if progress := self._progress(status):
            report["progress"] = progress
        if isinstance(status.get("pause_us"), int):
            report["pause_us"] = status["pause_us"]
        try:
            self._conductor.report(
                nova_context.get_admin_context(), str(status["clone_id"]), report
            )
        except CloneError as error:
            LOG.info("clone %s: its progress was not told: %s", status["clone_id"], error)

    def _progress(self, status: Mapping[str, Any]) -> dict[str, int]:
        """Pages and bytes that are verified, and how many bytes a second since the last report."""
        transfer = status.get("transfer")
        if not isinstance(transfer, dict) or "pages_verified" not in transfer:
            return {}
        verified, total = (
            int(transfer[key]) * PAGE_BYTES for key in ("pages_verified", "pages_total")
        )
        clone_id, now = str(status["clone_id"]), time.monotonic()
        then, before = self._rates.get(clone_id, (now, verified))
        self._rates[clone_id] = (now, verified)
        return {
            "pages_verified": verified // PAGE_BYTES,
            "pages_total": total // PAGE_BYTES,
            "bytes_verified": verified,
            "bytes_total": total,
            "rate_bytes_s": round((verified - before) / (now - then)) if now > then else 0,
        }


def _end(status: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "clone_id": str(status["clone_id"]),
        "server": str(status["server"]),
        "reason": str(status["reason"]),
        "code": str(status.get("code") or "trusted-clone.failed"),
    }


def _tell(call: Callable[[], None]) -> None:
    """Call the conductor. What it does not want to hear is not told again.

    :raises Later: when it does not answer
    """
    try:
        call()
    except Unavailable as error:
        raise Later(f"the clone conductor: {error}") from error
    except CloneError as error:
        LOG.warning("the clone conductor answered: %s", error)
