"""Which segment is fetched next: what a guest waits for, then its neighbours, then the rest.

Small regions come first among the rest: the definition and the device state are what a restore begins with. Not safe against
threads: the store's lock guards it.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable

from nova_trusted_clone.core.integrity.manifest import Region, RegionTable

# A guest that touches one segment soon touches the next ones: this many are taken before the rest.
NEIGHBOURS = 4
# Kinds in the order in which a restore needs them; others go with the disks.
_FIRST = {"domain": 0, "vtpm": 1, "device": 2, "ram": 3}


@dataclasses.dataclass(frozen=True)
class Place:
    """One segment."""

    region: int
    index: int


def _rank(region: Region) -> tuple[int, int, int]:
    return _FIRST.get(region.kind, len(_FIRST)), region.size_bytes, region.id


class Prefetch:
    """Queues of places that are neither complete nor under way.

    :ivar missing: tells which leaves of a place are still missing; 0 when it is complete
    """

    def __init__(self, regions: RegionTable, missing: Callable[[Place], int]) -> None:
        self._missing = missing
        self._regions = regions
        self._faults: deque[Place] = deque()
        self._near: deque[Place] = deque()
        self._order = sorted(regions.values(), key=_rank)
        self._cursor = (0, 0)
        self._under_way: set[Place] = set()

    def fault(self, place: Place) -> None:
        """A guest waits for this place."""
        if place in self._under_way or not self._missing(place):
            return
        if place not in self._faults:
            self._faults.append(place)
        segments = self._regions[place.region].segments
        for index in range(place.index + 1, min(place.index + 1 + NEIGHBOURS, segments)):
            self._near.append(Place(place.region, index))

    def next_fault(self) -> Place | None:
        """The next place that a guest waits for."""
        return self._take(self._faults)

    def next_any(self) -> Place | None:
        """The next place in the order of this module's first line."""
        return self._take(self._faults) or self._take(self._near) or self._rest()

    def done(self, place: Place) -> None:
        """It is complete, or to be asked for again by ``fault`` or ``put_back``."""
        self._under_way.discard(place)

    def put_back(self, place: Place) -> None:
        """It was under way and did not come: it goes before everything else, as a guest may wait."""
        self._under_way.discard(place)
        if self._missing(place):
            self._faults.appendleft(place)

    def _take(self, queue: deque[Place]) -> Place | None:
        while queue:
            place = queue.popleft()
            if place not in self._under_way and self._missing(place):
                self._under_way.add(place)
                return place
        return None

    def _rest(self) -> Place | None:
        number, index = self._cursor
        while number < len(self._order):
            region = self._order[number]
            while index < region.segments:
                place, index = Place(region.id, index), index + 1
                if place not in self._under_way and self._missing(place):
                    self._under_way.add(place)
                    self._cursor = (number, index)
                    return place
            number, index = number + 1, 0
        self._cursor = (number, 0)
        return None
