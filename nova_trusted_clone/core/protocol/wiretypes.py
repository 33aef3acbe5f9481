"""Types of fields on the wire. Each checks a value both ways, so that nothing bad is sent
either."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, Protocol

from nova_trusted_clone.core.errors import MalformedInput


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
