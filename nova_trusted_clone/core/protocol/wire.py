"""Messages as bytes: deterministic CBOR (RFC 8949, 4.2.1) of exactly the fields that a table names.

A message is a frozen dataclass whose fields carry their wire type::

    @dataclasses.dataclass(frozen=True)
    class Ping(Message):
        LABEL = "trusted-clone/1/ping"
        nonce: Annotated[bytes, Octets(32)]

On the wire it is a map from field names to values, with its label as ``message``; version and
direction are in the label. There are no optional fields. Bytes that do not decode to a message that
encodes to the same bytes are refused, so every message has one form only. Before the CBOR library
sees anything, a scan refuses what no message has: tags, floats, simple values, negative numbers,
indefinite lengths, more than four levels.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any, ClassVar, Self, TypeVar

import cbor2

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol.cborscan import MAX_MESSAGE_BYTES, scan
from nova_trusted_clone.core.protocol.wiretypes import WireType

LABEL_KEY = "message"


@dataclasses.dataclass(frozen=True)
class Nested:
    """A record within a message."""

    kind: type[Record]

    def dump(self, value: Any, where: str) -> dict[str, Any]:
        if type(value) is not self.kind:
            raise MalformedInput(f"{where}: found {type(value).__name__}, expected a record")
        return value.to_plain(where)

    def load(self, raw: Any, where: str) -> Record:
        return self.kind.from_plain(raw, where)


@dataclasses.dataclass(frozen=True)
class Record:
    """Fields that travel together. Subclasses annotate every field with its wire type."""

    @classmethod
    def table(cls) -> dict[str, WireType]:
        """Return field names and their wire types."""
        return _table(typing.cast(Any, cls))  # the cache is typed for hashable instances

    def to_plain(self, where: str) -> dict[str, Any]:
        """Return the CBOR-able form; raise :class:`MalformedInput` if a value is not what it may
        be."""
        return {
            name: kind.dump(getattr(self, name), f"{where}.{name}")
            for name, kind in self.table().items()
        }

    @classmethod
    def from_plain(cls, raw: Any, where: str) -> Self:
        """Return the record of a decoded map with exactly its keys."""
        table = cls.table()
        if type(raw) is not dict or set(raw) != set(table):
            found = sorted(map(str, raw)) if type(raw) is dict else type(raw).__name__
            raise MalformedInput(f"{where}: found {str(found)[:200]}, expected {sorted(table)}")
        return cls(
            **{name: kind.load(raw[name], f"{where}.{name}") for name, kind in table.items()}
        )


@functools.cache
def _table(cls: Any) -> dict[str, WireType]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: typing.cast(WireType, hints[field.name].__metadata__[0])
        for field in dataclasses.fields(cls)
    }


@dataclasses.dataclass(frozen=True)
class Message(Record):
    """A record that travels alone, under its label."""

    LABEL: ClassVar[str] = ""

    @classmethod
    def short_name(cls) -> str:
        """Return the label's last part, for people."""
        return cls.LABEL.rpartition("/")[2]

    def encode(self) -> bytes:
        """Return the one form of this message on the wire.

        :raises MalformedInput: if a value is not what its field may hold
        """
        plain = self.to_plain(self.short_name())
        data = cbor2.dumps({LABEL_KEY: self.LABEL, **plain}, canonical=True)
        if len(data) > MAX_MESSAGE_BYTES:
            raise MalformedInput(f"{self.short_name()}: {len(data)} bytes, too long to be sent")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the message that ``data`` is.

        :raises MalformedInput: naming the field, if it is anything else
        """
        return decode((cls,), data)


M = TypeVar("M", bound=Message)


def decode(kinds: tuple[type[M], ...], data: bytes) -> M:
    """Return the message that ``data`` is, one of ``kinds``; see :meth:`Message.decode`."""
    names = " or ".join(kind.short_name() for kind in kinds)
    scan(data, names)
    try:
        raw = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise MalformedInput(
            f"{names}: not CBOR that can be read ({type(error).__name__})"
        ) from error
    label = raw.pop(LABEL_KEY, None) if type(raw) is dict else None
    for kind in kinds:
        if type(label) is str and label == kind.LABEL:
            message = kind.from_plain(raw, kind.short_name())
            if message.encode() != data:
                raise MalformedInput(f"{kind.short_name()}: it is not in its deterministic form")
            return message
    raise MalformedInput(
        f"found message {str(label)[:80]!r}, expected {names}", code="trusted-clone.message.kind"
    )
