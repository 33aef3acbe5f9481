"""What happens to clones when Nova does something else with a server that gives or receives one.

=====================  ===============================================  ================================================
operation               the server is a source in a freeze                the server is a clone that still fetches
=====================  ===============================================  ================================================
delete                  clones finish within the limit, or are ended      the clone is ended at once
stop, reboot, pause,    clones finish within the limit, or are ended      it finishes within the limit, or the operation is
suspend, rescue,                                                          refused: ending it would destroy the server
snapshot, migrate,
resize, shelve,
rebuild
attach, detach          clones finish within the limit, or the            the same
                        operation is refused: it can be repeated
=====================  ===============================================  ================================================

The limit is the option ``protect_limit_s``.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nova_trusted_clone.clone.source import FreezeFailed

LOG = logging.getLogger(__name__)
POLL_S = 0.2


class Need(enum.Enum):
    """What an operation does to a server."""

    DESTROYS = "ends it"
    DISRUPTS = "stops or moves it"
    CHANGES = "adds or takes a device"


class Busy(Exception):
    """The operation has to wait: its text says for what, and what to do."""


class SourceUse(Protocol):
    """What is asked of ``clone.source.Source``."""

    def uses(self, server_uuid: str) -> list[str]:
        """Freezes of the server that are in use."""

    def end_all(self, server_uuid: str, wait_s: float, reason: str) -> None:
        """Wait for them, then end them."""


class DestinationUse(Protocol):
    """What is asked of ``clone.destination.Destination``."""

    def of_server(self, server_uuid: str) -> Mapping[str, Any] | None:
        """The status of the server's clone, if it is one."""

    def finish(self, server_uuid: str, wait_s: float) -> bool:
        """Wait until the server needs neither its source nor its store any more; whether that is so."""

    def end(self, clone_id: str, reason: str) -> None:
        """End a clone."""


class Protection:
    """Keeps clones and Nova's other operations apart."""

    def __init__(
        self,
        source: SourceUse,
        destination: DestinationUse,
        expect_end: Callable[[str], None],
        limit_s: float,
    ) -> None:
        """:param expect_end: told of a clone that ends because its server does, before it is ended"""
        self._source = source
        self._expect_end = expect_end
        self._destination = destination
        self._limit_s = limit_s

    def before(self, server_uuid: str, need: Need, operation: str) -> None:
        """Make way for an operation on a server.

        :param operation: in words, for logs and reasons: ``a reboot``
        :raises Busy: when the operation must not go on now
        """
        self._free_source(server_uuid, need, operation)
        self._free_clone(server_uuid, need, operation)

    def _free_source(self, server_uuid: str, need: Need, operation: str) -> None:
        if not self._source.uses(server_uuid):
            return
        LOG.info("server %s: %s waits for the clones that are made of it", server_uuid, operation)
        if need is not Need.CHANGES:
            self._end_freezes(server_uuid, need, operation)
            return
        deadline = time.monotonic() + self._limit_s
        while self._source.uses(server_uuid):
            if time.monotonic() > deadline:
                raise Busy(
                    f"the server is being cloned; {operation} is possible when its clones are complete"
                )
            time.sleep(POLL_S)

    def _end_freezes(self, server_uuid: str, need: Need, operation: str) -> None:
        try:
            self._source.end_all(server_uuid, self._limit_s, f"{operation} of the source server")
        except FreezeFailed as error:
            if need is not Need.DESTROYS:
                raise Busy(f"{error}; try again later") from error
            # With the guest goes what was put onto it.
            LOG.warning("server %s is deleted although %s", server_uuid, error)

    def _free_clone(self, server_uuid: str, need: Need, operation: str) -> None:
        status = self._destination.of_server(server_uuid)
        if status is None or status["phase"] == "failed":
            return
        if need is Need.DESTROYS:
            if status["phase"] != "complete":
                self._expect_end(str(status["clone_id"]))
                self._destination.end(str(status["clone_id"]), "the server was deleted")
            return
        if not self._destination.finish(server_uuid, self._limit_s):
            raise Busy(self._unfinished(server_uuid, operation))

    def _unfinished(self, server_uuid: str, operation: str) -> str:
        status = self._destination.of_server(server_uuid)
        if status is not None and status["phase"] == "complete":
            return f"the server is a clone whose disks are being made its own; {operation} is possible in a moment"
        return f"the server is a clone that still fetches from its source; {operation} is possible when it is complete"
