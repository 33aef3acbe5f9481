"""Untrusted text on somebody's terminal: what a terminal would obey is not shown."""

from __future__ import annotations

import unicodedata

# What turns the direction of writing: a name must not show as another.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    """Return ``text`` without what a terminal would obey or could not show."""
    return "".join(
        "\ufffd" if char in _TURNING or unicodedata.category(char) in ("Cc", "Cs") else char
        for char in text.replace("\n", " ").replace("\t", " ")
    )
