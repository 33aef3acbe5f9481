"""Messages as bytes: deterministic CBOR (RFC 8949, 4.2.1) of exactly the fields that a table names.

A message is a frozen dataclass whose fields carry their wire type::

@dataclasses.dataclass(frozen=True) class Ping(Message): LABEL = "trusted-clone/1/ping" nonce:
Annotated[bytes, Octets(32)]

On the wire it is a map from field names to values, with its label as ``message``; version and
direction are in the label. There are no optional fields. Bytes that do not decode to a message that
encodes to the same bytes are refused, so every message has one form only. Before the CBOR library
sees anything, a scan refuses what no message has: tags, floats, simple values, negative numbers,
indefinite lengths, more than four levels.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from typing import Any, ClassVar, Protocol, Self, TypeVar

import cbor2

from nova_trusted_clone.core.errors import MalformedInput

MAX_MESSAGE_BYTES = 1 << 20
MAX_DEPTH = 4
MAX_ITEMS = 65536  # the largest message, a page key with its regions, has a few thousand
LABEL_KEY = "message"


class WireType(Protocol):
    """Checks a value both ways; ``where`` names the field in errors."""

    def dump(self, value: Any, where: str) -> Any:
        """Return the CBOR-able form of a checked value."""

    def load(self, raw: Any, where: str) -> Any:
        """Return the value of a decoded CBOR item."""


@dataclasses.dataclass(frozen=True)
class Octets:
    """A byte string of ``least`` to ``most`` bytes; of exactly ``least`` without ``most``."""

    least: int
    most: int | None = None

    def dump(self, value: Any, where: str) -> bytes:
        return self.load(value, where)

    def load(self, raw: Any, where: str) -> bytes:
        most = self.least if self.most is None else self.most
        if type(raw) is not bytes or not self.least <= len(raw) <= most:
            found = f"{len(raw)} bytes" if type(raw) is bytes else type(raw).__name__
            raise MalformedInput(f"{where}: found {found}, expected {self.least}–{most} bytes")
        return raw


@dataclasses.dataclass(frozen=True)
class Text:
    """A string that a pattern matches from end to end."""

    pattern: str
    most: int

    def dump(self, value: Any, where: str) -> str:
        return self.load(value, where)

    def load(self, raw: Any, where: str) -> str:
        if (
            type(raw) is not str
            or len(raw) > self.most
            or not _pattern(self.pattern).fullmatch(raw)
        ):
            found = repr(raw[:80]) if type(raw) is str else type(raw).__name__
            raise MalformedInput(
                f"{where}: found {found}, expected up to {self.most} characters like {self.pattern}"
            )
        return raw


@functools.cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII)


@dataclasses.dataclass(frozen=True)
class Uint:
    """A whole number from ``least`` to ``most``."""

    least: int = 0
    most: int = (1 << 63) - 1

    def dump(self, value: Any, where: str) -> int:
        return self.load(value, where)

    def load(self, raw: Any, where: str) -> int:
        if type(raw) is not int or not self.least <= raw <= self.most:
            found = raw if type(raw) is int else type(raw).__name__
            raise MalformedInput(f"{where}: found {found}, expected {self.least}–{self.most}")
        return raw


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few strings."""

    values: tuple[str, ...]

    def dump(self, value: Any, where: str) -> str:
        return self.load(value, where)

    def load(self, raw: Any, where: str) -> str:
        if type(raw) is not str or raw not in self.values:
            found = repr(raw[:80]) if type(raw) is str else type(raw).__name__
            raise MalformedInput(
                f"{where}: found {found}, expected one of {', '.join(self.values)}"
            )
        return raw


@dataclasses.dataclass(frozen=True)
class Many:
    """A list of ``least`` to ``most`` items of one kind; a tuple in Python."""

    item: WireType
    least: int
    most: int

    def _check(self, count: int, where: str) -> None:
        if not self.least <= count <= self.most:
            raise MalformedInput(f"{where}: found {count} items, expected {self.least}–{self.most}")

    def dump(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, tuple | list):
            raise MalformedInput(f"{where}: found {type(value).__name__}, expected a list")
        self._check(len(value), where)
        return [self.item.dump(item, f"{where}[{n}]") for n, item in enumerate(value)]

    def load(self, raw: Any, where: str) -> tuple[Any, ...]:
        if type(raw) is not list:
            raise MalformedInput(f"{where}: found {type(raw).__name__}, expected a list")
        self._check(len(raw), where)
        return tuple(self.item.load(item, f"{where}[{n}]") for n, item in enumerate(raw))


@dataclasses.dataclass(frozen=True)
class Row:
    """A list of a fixed number of items, each of its own kind; a tuple in Python."""

    items: tuple[WireType, ...]

    def _each(self, value: Any, where: str) -> list[tuple[WireType, Any, str]]:
        if not isinstance(value, tuple | list) or len(value) != len(self.items):
            raise MalformedInput(f"{where}: expected a list of {len(self.items)} items")
        return [
            (kind, item, f"{where}[{n}]")
            for n, (kind, item) in enumerate(zip(self.items, value, strict=True))
        ]

    def dump(self, value: Any, where: str) -> list[Any]:
        return [kind.dump(item, place) for kind, item, place in self._each(value, where)]

    def load(self, raw: Any, where: str) -> tuple[Any, ...]:
        return tuple(kind.load(item, place) for kind, item, place in self._each(raw, where))


@dataclasses.dataclass(frozen=True)
class PcrValues:
    """SHA-256 values of exactly these PCRs; a map from index to value."""

    pcrs: tuple[int, ...]

    def dump(self, value: Any, where: str) -> dict[int, bytes]:
        return self.load(value, where)

    def load(self, raw: Any, where: str) -> dict[int, bytes]:
        if not isinstance(raw, dict) or any(type(key) is not int for key in raw):
            raise MalformedInput(f"{where}: expected a map from PCR indexes to values")
        if tuple(sorted(raw)) != self.pcrs:
            raise MalformedInput(f"{where}: found PCR {sorted(raw)[:24]}, expected {self.pcrs}")
        return {index: Octets(32).load(raw[index], f"{where}[{index}]") for index in self.pcrs}


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


def scan(data: bytes, what: str) -> None:
    """Raise :class:`MalformedInput` unless ``data`` is one CBOR item of the few kinds that messages
    use, within the limits."""
    if type(data) is not bytes or len(data) > MAX_MESSAGE_BYTES:
        raise MalformedInput(f"{what}: expected at most {MAX_MESSAGE_BYTES} bytes")
    offset, items = 0, 0
    left = [1]  # how many items are still to come, level by level
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        items += 1
        if items > MAX_ITEMS:
            raise MalformedInput(f"{what}: more than {MAX_ITEMS} items")
        major, argument, offset = _head(data, offset, what)
        if major in (2, 3):  # bytes, text
            offset += argument
        elif major in (4, 5):  # list, map
            left.append(argument * (1 if major == 4 else 2))
            if len(left) > MAX_DEPTH + 1 or left[-1] > len(data) - offset:
                raise MalformedInput(f"{what}: nested too deeply, or longer than its bytes")
        elif major != 0:
            raise MalformedInput(f"{what}: CBOR major type {major} at byte {offset} is not used")
        if offset > len(data):
            raise MalformedInput(f"{what}: it ends in the middle")
    if offset != len(data):
        raise MalformedInput(f"{what}: {len(data) - offset} bytes follow its end")


def _head(data: bytes, offset: int, what: str) -> tuple[int, int, int]:
    """Return major type, argument and the offset after them (RFC 8949, 3)."""
    if offset >= len(data):
        raise MalformedInput(f"{what}: it ends in the middle")
    major, info = data[offset] >> 5, data[offset] & 0x1F
    if info < 24:
        return major, info, offset + 1
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(info, 0)
    end = offset + 1 + size
    if size == 0 or end > len(data):
        raise MalformedInput(f"{what}: a length at byte {offset} is indefinite or cut off")
    return major, int.from_bytes(data[offset + 1 : end], "big"), end
