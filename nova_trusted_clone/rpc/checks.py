"""Checks of what comes over the broker. Each takes a value and its place, and returns what it is or raises ``Invalid``."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from nova_trusted_clone.rpc.errors import Invalid

Check = Callable[[Any, str], Any]

# A host's name as oslo's CONF.host allows it; it becomes part of a queue's name.
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,252}")
_HOST_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]|\.(?!\.)){0,62}")
_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MAX_REASON = 4096
MAX_DEPTH = 10
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _wrong(where: str, expected: str, value: Any) -> Invalid:
    found = type(value).__name__ if not isinstance(value, str | int) else repr(value)[:64]
    return Invalid(f"{where}: found {found}, expected {expected}")


def hexadecimal(least_bytes: int, most_bytes: int) -> Check:
    """Lower-case hexadecimal of so many bytes; stays text."""

    def check(value: Any, where: str) -> str:
        good = (
            isinstance(value, str)
            and 2 * least_bytes <= len(value) <= 2 * most_bytes
            and len(value) % 2 == 0
            and not set(value) - set("0123456789abcdef")
        )
        if not good:
            raise _wrong(
                where, f"{2 * least_bytes}–{2 * most_bytes} lower-case hexadecimal digits", value
            )
        return str(value)

    return check


hex_id = hexadecimal(16, 16)
sha256 = hexadecimal(32, 32)


def server_uuid(value: Any, where: str) -> str:
    """A UUID as nova writes it."""
    try:
        if isinstance(value, str) and str(uuid.UUID(value)) == value:
            return value
    except ValueError:
        pass  # told below, with every other wrong value
    raise _wrong(where, "a UUID in lower case with dashes", value)


def text(most: int, least: int = 0) -> Check:
    """Text without control characters other than tab and line end."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise _wrong(where, f"a string of {least}–{most} characters", value)
        if _UNPRINTABLE.search(value):
            raise Invalid(f"{where}: found a control character, expected text")
        return value

    return check


def reason(value: Any, where: str) -> str:
    """Why something ended; what is too long is cut, since a reason must not be the reason of a failure."""
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    return _UNPRINTABLE.sub("?", value[:MAX_REASON])


def _matching(pattern: re.Pattern[str], expected: str) -> Check:
    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _wrong(where, expected, value)
        return value

    return check


host = _matching(_HOST, "a nova host name")
host_id = _matching(_HOST_ID, "a host id: lower-case letters, digits, dots, dashes")
account = _matching(_ACCOUNT, "a project's or user's id")


def number(least: int, most: int) -> Check:
    """A whole number within bounds."""

    def check(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _wrong(where, f"a whole number from {least} to {most}", value)
        return value

    return check


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def choice(*allowed: str) -> Check:
    """One of the given words."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise _wrong(where, f"one of {', '.join(allowed)}", value)
        return value

    return check


def base64_text(most_bytes: int, least_bytes: int = 1) -> Check:
    """Bytes as base64; returns the bytes."""

    def check(value: Any, where: str) -> bytes:
        expected = f"base64 of {least_bytes}–{most_bytes} bytes"
        if not isinstance(value, str) or len(value) > 4 * (most_bytes // 3 + 1):
            raise _wrong(where, expected, value)
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Invalid(f"{where}: expected {expected}") from error
        if not least_bytes <= len(data) <= most_bytes:
            raise Invalid(f"{where}: found {len(data)} bytes, expected {expected}")
        return data

    return check


def optional(check: Check) -> Check:
    """None, or what ``check`` allows."""
    return lambda value, where: None if value is None else check(value, where)


def many(check: Check, most: int, least: int = 0) -> Check:
    """A list."""

    def each(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise _wrong(where, f"a list of {least}–{most}", value)
        return [check(item, f"{where}[{index}]") for index, item in enumerate(value)]

    return each


def row(*parts: Check) -> Check:
    """A list of exactly these."""

    def check(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise _wrong(where, f"a list of {len(parts)}", value)
        return tuple(
            part(item, f"{where}[{index}]")
            for index, (part, item) in enumerate(zip(parts, value, strict=True))
        )

    return check


def mapping(
    required: Mapping[str, Check],
    optional_keys: Mapping[str, Check] | None = None,
    *,
    open_ended: bool = False,
) -> Check:
    """An object of these keys; others are an error, or dropped when ``open_ended``."""
    known = {**required, **(optional_keys or {})}

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        for key in required:
            if key not in value:
                raise Invalid(f"{where}.{key}: it is missing")
        if not open_ended:
            for key in value:
                if key not in known:
                    raise Invalid(
                        f"{where}.{str(key)[:64]}: unknown key, expected {', '.join(sorted(known))}"
                    )
        return {
            key: one(value[key], f"{where}.{key}") for key, one in known.items() if key in value
        }

    return check


def plain(most_characters: int) -> Check:
    """Any plain JSON value, bounded in depth and in the characters that it takes."""

    def check(value: Any, where: str) -> Any:
        if _measure(value, where, 0) > most_characters:
            raise Invalid(f"{where}: expected at most {most_characters} characters in all")
        return value

    return check


def _measure(value: Any, where: str, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise Invalid(f"{where}: nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, bool | int | float):
        return 24
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return 2 + sum(_measure(item, where, depth + 1) for item in value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise Invalid(f"{where}: a key that is not text")
        return 2 + sum(len(key) + _measure(item, where, depth + 1) for key, item in value.items())
    raise _wrong(where, "plain JSON", value)


def plain_object(most_characters: int) -> Check:
    """A plain JSON object."""
    bounded = plain(most_characters)

    def check(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        bounded(value, where)
        return value

    return check
