"""Reading JSON that others may have written: bounded, no repeated key, nothing unknown, every
complaint with its place."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from nova_trusted_clone.core.errors import MalformedInput


def load(data: bytes, what: str, limit: int) -> dict[str, Any]:
    """Return the JSON object in ``data``.

    :raises MalformedInput: if it is longer than ``limit`` bytes, not UTF-8, not an object, or
        repeats a key
    """
    if not isinstance(data, bytes) or len(data) > limit:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise MalformedInput(f"{what}: found {found}, expected at most {limit} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        raise MalformedInput(f"{what}: not JSON that can be read ({str(error)[:200]})") from error
    if not isinstance(value, dict):
        raise MalformedInput(f"{what}: found {type(value).__name__}, expected an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def keys(value: Any, where: str, required: Collection[str], optional: Collection[str] = ()) -> None:
    """Raise :class:`MalformedInput` unless ``value`` is an object of these keys alone."""
    if not isinstance(value, dict):
        raise MalformedInput(f"{where}: found {type(value).__name__}, expected an object")
    for key in required:
        if key not in value:
            raise MalformedInput(f"{where}.{key}: it is missing")
    for key in value:
        if key not in required and key not in optional:
            known = ", ".join(sorted({*required, *optional}))
            raise MalformedInput(f"{where}.{key[:64]}: unknown key, expected {known}")


def text(value: Any, where: str, most: int) -> str:
    """Return ``value`` if it is a string of at most ``most`` characters."""
    if not isinstance(value, str) or len(value) > most:
        raise MalformedInput(f"{where}: expected a string of at most {most} characters")
    return value


def flag(value: Any, where: str) -> bool:
    """Return ``value`` if it is true or false."""
    if not isinstance(value, bool):
        raise MalformedInput(f"{where}: found {type(value).__name__}, expected true or false")
    return value


def number(value: Any, where: str, least: int, most: int) -> int:
    """Return ``value`` if it is a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise MalformedInput(f"{where}: expected a whole number from {least} to {most}")
    return value


def hexadecimal(value: Any, where: str, size: int) -> bytes:
    """Return the ``size`` bytes that ``value`` has in lower-case hexadecimal."""
    raw = text(value, where, 2 * size)
    if len(raw) != 2 * size or any(char not in "0123456789abcdef" for char in raw):
        raise MalformedInput(f"{where}: expected {2 * size} lower-case hexadecimal digits")
    return bytes.fromhex(raw)
