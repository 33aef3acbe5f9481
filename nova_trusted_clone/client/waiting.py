"""Waiting until clones have ended, over what happens meanwhile.

A clone that is complete is waited for until Nova, too, is done with its server: a clone may be whole
before Nova has heard from Neutron that its port is plugged, and a server in BUILD can do little.

A cloud restarts its API, a token expires, a source or a clone is deleted: none of it ends the wait
by itself. What only reads is tried again for as long as ``PATIENCE_S``; what is refused for good ends
it at once. The clones go on by themselves in any case: nothing here holds them.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol, TypeVar

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.values import BROKEN, GONE, Clone

# A clone changes its phase within parts of a second, but nobody reads faster.
POLL_S = 1.0
# An API that is restarted for an upgrade is back within this.
PATIENCE_S = 600.0
LONGEST_PAUSE_S = 30.0
# One 404 may come from an API that is just starting, or from a database that lags behind.
GONE_AFTER_ROUNDS = 3
_Value = TypeVar("_Value")


class Reader(Protocol):
    """The part of :class:`~nova_trusted_clone.client.rest.TrustedClones` that is needed here."""

    def list(self, server_id: str, wanted: Collection[str] = ()) -> tuple[Clone, ...]:
        """Return the records of a server, at least those wanted that there are."""

    def show(self, server_id: str, clone_id: str) -> Clone:
        """Return one record."""

    def server_status(self, server_id: str) -> str:
        """Return Nova's status of a server."""


class Watcher(Protocol):
    """Who is told meanwhile."""

    def clones(self, clones: Iterable[Clone]) -> None:
        """All clones that are waited for, as they are now."""

    def trouble(self, text: str) -> None:
        """What keeps the cloud from answering; empty when it answers again."""


class Clock(Protocol):
    """Time, so that tests need none."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


@dataclasses.dataclass(frozen=True)
class Waited:
    """How it ended.

    :ivar clones: in the order in which they were given
    :ivar timed_out: whether some go on
    """

    clones: tuple[Clone, ...]
    timed_out: bool


@dataclasses.dataclass
class Patience:
    """Repeats a request that fails for the moment.

    :ivar watcher: is told of the trouble
    :ivar deadline: when to stop whatever happens, by the clock
    """

    watcher: Watcher
    clock: Clock = time
    deadline: float = float("inf")

    def insist(self, request: Callable[[], _Value]) -> _Value:
        """Return what ``request`` returns at last.

        :raises errors.ClientError: the last one, when patience or time has run out
        """
        started, pause, troubled = self.clock.monotonic(), POLL_S, False
        while True:
            try:
                value = request()
            except errors.ClientError as error:
                pause_s = max(pause, _asked_pause_s(error))
                end = min(started + PATIENCE_S, self.deadline)
                if not error.transient or self.clock.monotonic() + pause_s > end:
                    raise
                troubled = True
                self.watcher.trouble(f"{error}; trying again in {pause_s:.0f} s")
                self.clock.sleep(pause_s)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                if troubled:
                    self.watcher.trouble("")
                return value


def _asked_pause_s(error: errors.ClientError) -> float:
    return float((error.retry_after_s if isinstance(error, errors.Refused) else None) or 0)


class Wait:
    """One wait for clones of one source."""

    def __init__(
        self,
        reader: Reader,
        source_id: str,
        clones: Iterable[Clone],
        watcher: Watcher,
        clock: Clock = time,
    ) -> None:
        self._reader = reader
        self._source_id = source_id
        self._clones = {clone.id: clone for clone in clones}
        self._missing = dict.fromkeys(self._clones, 0)
        self._watcher = watcher
        self._clock = clock

    def run(self, timeout_s: float | None = None) -> Waited:
        """Wait until each is ready or has failed, or for ``timeout_s``.

        :raises errors.ClientError: when the cloud refuses to tell, or has not answered for long
        """
        limit_s = float("inf") if timeout_s is None else timeout_s
        deadline = self._clock.monotonic() + limit_s
        patience = Patience(self._watcher, self._clock, deadline)
        while True:
            self._update(patience)
            self._watcher.clones(self._clones.values())
            if not self._pending():
                return self._waited(timed_out=False)
            if self._clock.monotonic() + POLL_S > deadline:
                return self._waited(timed_out=True)
            self._clock.sleep(POLL_S)

    def _waited(self, *, timed_out: bool) -> Waited:
        return Waited(tuple(self._clones.values()), timed_out)

    def _pending(self) -> list[Clone]:
        return [clone for clone in self._clones.values() if not clone.ended or _building(clone)]

    def _update(self, patience: Patience) -> None:
        listed = patience.insist(self._list)
        for clone in self._pending():
            found = listed.get(clone.id) or patience.insist(functools.partial(self._show, clone))
            if found and found.complete:
                found = patience.insist(functools.partial(self._with_server, found))
            self._missing[clone.id] = 0 if found else self._missing[clone.id] + 1
            if found:
                self._clones[clone.id] = found
            elif self._missing[clone.id] >= GONE_AFTER_ROUNDS:
                self._clones[clone.id] = dataclasses.replace(
                    clone, phase=GONE, reason="there is no record of it: its server was deleted"
                )

    def _list(self) -> Mapping[str, Clone]:
        """The source's records; none if the source was deleted, which its clones may outlive."""
        try:
            listed = self._reader.list(self._source_id, self._clones.keys())
        except errors.NotFound:
            return {}
        return {clone.id: clone for clone in listed}

    def _show(self, clone: Clone) -> Clone | None:
        """The record by way of the clone's own server."""
        try:
            return self._reader.show(clone.server_id, clone.id)
        except errors.NotFound:
            return None

    def _with_server(self, clone: Clone) -> Clone | None:
        """A complete clone with what Nova says of its server."""
        try:
            status = self._reader.server_status(clone.server_id)
        except errors.NotFound:
            return None
        reason = clone.reason
        if status == BROKEN:
            look = f"openstack server show {clone.server_id}"
            reason = f"the clone is complete, but its server is in {BROKEN}: look with '{look}'"
        return dataclasses.replace(clone, server_status=status, reason=reason)


def _building(clone: Clone) -> bool:
    """Whether it is complete, and Nova still builds its server."""
    return clone.complete and not clone.ready
