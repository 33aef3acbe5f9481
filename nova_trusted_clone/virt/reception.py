"""A clone that ``spawn()`` waits for, between two threads: the one that builds the server, and the one that hears the broker.

    awaited ── claim ──► claimed ── order ──► ordered ── the engine's phases ──► provisional or complete
       └──────────────── ended, with a reason, from anywhere ────────────────────────────┘

It knows no Nova. Whoever sends an order is not believed for it: the engine checks the signature, and that the order is for
this server on this host.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from nova_trusted_clone.ports import Identity
from nova_trusted_clone.rpc.errors import CloneError, Refused

LOOK_S = 1.0
"""How often the waiting thread looks whether the server is still wanted."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """Why a clone ended.

    :ivar refused_here: whether this host was refused, so that another may do
    """

    reason: str
    code: str
    refused_here: bool = False


def unclaimed(error: CloneError) -> Ending:
    """Why the conductor took no claim of this host's. That this host is refused says nothing of another."""
    refused = isinstance(error, Refused)
    return Ending(f"the clone conductor: {error}", error.code, refused_here=refused)


class CloneEnded(Exception):
    """The clone that was waited for will not come."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.reason)
        self.ending = ending


class Mismatch(Exception):
    """A message does not fit what is awaited; the text says how."""


class Reception:
    """One awaited clone.

    :param identity: who the clone will be, as Nova decided
    :param prepare: the engine's: takes (order, identity), returns the clone id that the order names
    """

    def __init__(self, identity: Identity, prepare: Callable[[bytes, Identity], str]) -> None:
        self.identity = identity
        self._prepare = prepare
        self._changed = threading.Condition()
        self._claimed = ""
        self._ordered = ""
        self._ending: Ending | None = None

    @property
    def clone_id(self) -> str:
        """The attempt's id, once it is known; empty before."""
        return self._ordered or self._claimed

    def claim(self, clone_id: str) -> None:
        """Take note of the id under which the conductor knows this attempt.

        :raises Mismatch: when an order for another one came before
        """
        with self._changed:
            self._require_same(clone_id)
            self._claimed = clone_id
            self._changed.notify_all()

    def accept(self, clone_id: str, order: bytes) -> None:
        """Hand an order to the engine; the same one twice is one.

        :raises Mismatch: when it is not for the attempt that is awaited
        :raises CloneEnded: when nobody waits any more
        """
        with self._changed:
            if self._ending is not None:
                raise CloneEnded(self._ending)
            self._require_same(clone_id)
            if self._ordered:
                return
            ordered = self._prepare(order, self.identity)
            if ordered != clone_id:
                raise Mismatch(f"the order is for clone {ordered}, the message for {clone_id}")
            self._ordered = clone_id
            self._changed.notify_all()

    def _require_same(self, clone_id: str) -> None:
        if self.clone_id not in ("", clone_id):
            raise Mismatch(f"clone {self.clone_id} is awaited here, not {clone_id}")

    def end(self, ending: Ending) -> None:
        """Let nobody wait any more; the first reason stays."""
        with self._changed:
            if self._ending is None:
                self._ending = ending
            self._changed.notify_all()

    def wait_for_order(self, limit_s: float, look: Callable[[], None]) -> str:
        """Wait for the order; return the clone's id.

        :param look: called about once a second; what it raises ends the wait
        :raises CloneEnded: when it was ended, or no order came within ``limit_s``
        """
        deadline = time.monotonic() + limit_s
        while True:
            with self._changed:
                if self._ending is not None:
                    raise CloneEnded(self._ending)
                if self._ordered:
                    return self._ordered
                self._changed.wait(LOOK_S)
            if time.monotonic() > deadline:
                ending = Ending(
                    f"no order for this clone came within {limit_s:.0f} s; see the conductor's log",
                    "trusted-clone.order.missing",
                )
                self.end(ending)
                raise CloneEnded(ending)
            look()


class Receptions:
    """Every clone that this host's ``spawn()`` waits for, by its server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited: dict[str, Reception] = {}

    def add(self, reception: Reception) -> None:
        """Await a clone."""
        with self._lock:
            self._awaited[reception.identity.uuid] = reception

    def remove(self, reception: Reception) -> None:
        """Await it no more."""
        with self._lock:
            if self._awaited.get(reception.identity.uuid) is reception:
                del self._awaited[reception.identity.uuid]

    def of_server(self, server: str) -> Reception | None:
        """The reception of a server, if it is awaited."""
        with self._lock:
            return self._awaited.get(server)

    def of_clone(self, clone_id: str) -> Reception | None:
        """The reception of an attempt, if it is awaited."""
        with self._lock:
            awaited = list(self._awaited.values())
        return next((one for one in awaited if one.clone_id == clone_id), None)
