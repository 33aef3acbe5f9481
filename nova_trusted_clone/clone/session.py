"""A protocol session that a restart does not forget.

The state machines of ``core.protocol`` are functions of the events that they were fed. Each event is written to a log before
it is fed; feeding a new machine the same log brings it to the same state. The log holds no secret: nonces, quotes and
messages that were on the wire anyway.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import cbor2

from nova_trusted_clone.clone.records import RecordError
from nova_trusted_clone.core.protocol import actions, events
from nova_trusted_clone.ports import Quote

Signer = Callable[[bytes, Sequence[int]], Quote]
MAX_EVENT_BYTES = 4 << 20
TYPE_KEY = "@"


class Machine(Protocol):
    """A state machine of ``core.protocol``."""

    def handle(self, event: Any) -> Sequence[Any]:
        """Take one event, return what is to be done."""


def _pack(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: _pack(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {TYPE_KEY: type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [_pack(item) for item in value]
    if isinstance(value, Mapping):
        return {TYPE_KEY: "map", "items": [[key, _pack(item)] for key, item in value.items()]}
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.pop(TYPE_KEY)
    if name == "map":
        return {key: _unpack(item) for key, item in value["items"]}
    kind = getattr(events, name)
    return kind(**{key: _unpack(item) for key, item in value.items()})


class EventLog:
    """The events of one session, in order, on disk."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def append(self, event: Any) -> None:
        """Add one event and make it last."""
        raw = cbor2.dumps(_pack(event))
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, struct.pack(">I", len(raw)) + raw)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[Any]:
        """Return every whole event; a torn one at the end was never acted on and is left out.

        :raises RecordError: when the log is damaged before its end
        """
        found, raw = [], self._path.read_bytes()
        while len(raw) >= 4:
            (length,) = struct.unpack(">I", raw[:4])
            if length > MAX_EVENT_BYTES:
                raise RecordError(f"{self._path}: an event of {length} bytes")
            if len(raw) < 4 + length:
                break
            try:
                found.append(_unpack(cbor2.loads(raw[4 : 4 + length])))
            except (cbor2.CBORDecodeError, AttributeError, KeyError, TypeError) as error:
                raise RecordError(f"{self._path}: event {len(found)}: {error}") from error
            raw = raw[4 + length :]
        return found


@dataclasses.dataclass(frozen=True)
class Resumed:
    """Where a session stood.

    :ivar heard: every event that it was fed
    :ivar left: the actions of the last one that are the caller's
    """

    heard: tuple[Any, ...]
    left: tuple[Any, ...]

    def heard_a(self, kind: type) -> bool:
        """Whether it was fed an event of this kind."""
        return any(isinstance(event, kind) for event in self.heard)

    @property
    def last_message(self) -> bytes:
        """The last message that came; empty when none did."""
        messages = [e.data for e in self.heard if isinstance(e, events.MessageReceived)]
        return messages[-1] if messages else b""


class Session:
    """Feeds a machine, makes the quotes that it asks for, and hands on everything else."""

    def __init__(self, machine: Machine, log: pathlib.Path, signers: Mapping[str, Signer]) -> None:
        self._machine = machine
        self._log = EventLog(log)
        self._signers = signers

    @classmethod
    def resume(
        cls, machine: Machine, log: pathlib.Path, signers: Mapping[str, Signer]
    ) -> tuple[Session, Resumed]:
        """Bring a new machine to where the log ends; quotes that it still waits for are made.

        :raises RecordError: when the log cannot be read
        :raises CoreError: when the log is not one of such a machine
        """
        session, heard = cls(machine, log, signers), EventLog(log).read()
        wanted: Sequence[Any] = ()
        for event in heard:
            wanted = machine.handle(event)
        return session, Resumed(tuple(heard), tuple(session._settle(wanted)))

    def feed(self, event: Any) -> list[Any]:
        """Feed one event and return the actions that are left to the caller, in order."""
        return self._settle(self._take(event))

    def _settle(self, wanted: Sequence[Any]) -> list[Any]:
        left: list[Any] = []
        pending = deque(wanted)
        while pending:
            action = pending.popleft()
            if isinstance(action, actions.MakeQuote):
                quote = self._signers[action.signer](action.qualifying_data, action.pcrs)
                pending.extend(
                    self._take(events.QuoteMade(action.purpose, quote.attest, quote.signature))
                )
            else:
                left.append(action)
        return left

    def _take(self, event: Any) -> Sequence[Any]:
        self._log.append(event)
        return self._machine.handle(event)
