"""Configuration files in oslo's format, from plain values."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TypeAlias

Sections: TypeAlias = Mapping[str, Mapping[str, object]]


def render(sections: Sections) -> str:
    """The file's text; an option whose value is None is left out."""
    lines = []
    for name, options in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_text(value)}" for key, value in options.items() if value is not None]
        lines.append("")
    return "\n".join(lines)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if "\n" in text:
        raise ValueError(f"an option's value is one line, not {text!r}")
    return text


def merge(*parts: Sections) -> Sections:
    """One of all: a later part adds to the sections of an earlier one and overrides its options."""
    merged: dict[str, dict[str, object]] = {}
    for part in parts:
        for name, options in part.items():
            merged.setdefault(name, {}).update(options)
    return merged


def write(path: pathlib.Path, *parts: Sections) -> pathlib.Path:
    """Write ``parts``, merged, as one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(merge(*parts)))
    return path
