"""A complete clone's disks become independent of the store."""

from __future__ import annotations

import logging
import pathlib
import threading
from collections.abc import Callable

from nova_trusted_clone.ports import DestinationHypervisor, Identity

LOG = logging.getLogger(__name__)


class Settling:
    """Attempts to settle one clone's disks, one at a time."""

    def __init__(
        self,
        clone_id: str,
        destination: DestinationHypervisor,
        identity: Identity,
        directory: pathlib.Path,
    ) -> None:
        self._clone_id = clone_id
        self._destination = destination
        self._identity = identity
        self._directory = directory
        self._attempting = threading.Lock()

    def attempt(self, note: Callable[[], None], removed: Callable[[], bool]) -> bool:
        """Try once. What prevents it is logged: as an error, unless the server was stopped or removed meanwhile.

        :param note: makes it last that the disks have settled
        :param removed: whether the clone has been removed
        :return: whether they have settled now; not so while another thread tries
        """
        if not self._attempting.acquire(blocking=False):
            return False
        existed = False
        try:
            existed = self._process_exists()
            self._destination.settle(self._identity, self._directory)
            note()
        except Exception as error:
            if removed():
                LOG.info("clone %s: removed while its disks settled: %s", self._clone_id, error)
            elif existed and self._has_ended():
                LOG.info("clone %s: ended while its disks settled: %s", self._clone_id, error)
            else:
                LOG.exception("clone %s: its disks still need the store", self._clone_id)
            return False
        finally:
            self._attempting.release()
        return True

    def _process_exists(self) -> bool:
        return self._destination.exists(self._identity.uuid, self._directory)

    def _has_ended(self) -> bool:
        try:
            return not self._process_exists()
        except Exception:  # a hypervisor that does not answer has not said so
            LOG.exception("clone %s: whether it runs cannot be told", self._clone_id)
            return False
