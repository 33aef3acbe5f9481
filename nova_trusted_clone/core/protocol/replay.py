"""Used once means once: clone ids and nonces that a destination has seen."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

# An order lives for minutes; more sessions than this within that time cannot be attested by one
# TPM.
MOST_REMEMBERED = 65536


class ReplayGuard(Protocol):
    """Remembers values; the driver brings one that lasts over restarts."""

    def first_use(self, kind: str, value: bytes) -> bool:
        """Return whether ``value`` of ``kind`` is new, and remember it."""


class MemoryReplayGuard:
    """Remembers in memory; the oldest give way, whose orders have expired long before."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._seen: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def first_use(self, kind: str, value: bytes) -> bool:
        """See :class:`ReplayGuard`."""
        if (kind, value) in self._seen:
            return False
        self._seen[kind, value] = None
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return True
