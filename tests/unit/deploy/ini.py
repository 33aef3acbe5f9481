"""DevStack's ``iniset`` for the tests: one option of one section of a file, the rest of the file as it was.

As a program: ``ini.py set FILE SECTION OPTION VALUE`` and ``ini.py get FILE SECTION OPTION``.
"""

from __future__ import annotations

import pathlib
import sys


def sections(text: str) -> list[tuple[str, list[str]]]:
    """The file in order: what stands before the first section has the name ``""``."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines():
        if line.startswith("[") and line.rstrip().endswith("]"):
            found.append((line.strip()[1:-1], []))
        else:
            found[-1][1].append(line)
    return found


def place_of(lines: list[str], option: str) -> int | None:
    """Which line sets an option."""
    for number, line in enumerate(lines):
        name, equals, _value = line.partition("=")
        if equals and name.strip() == option:
            return number
    return None


def put(path: pathlib.Path, section: str, option: str, value: str) -> None:
    """Set an option; file and section are made where they are missing."""
    found = sections(path.read_text() if path.exists() else "")
    if section not in [name for name, _ in found]:
        found.append((section, []))
    lines = next(lines for name, lines in found if name == section)
    setting, place = f"{option} = {value}", place_of(lines, option)
    if place is None:
        lines.insert(0, setting)
    else:
        lines[place] = setting
    parts = [line for name, body in found for line in ([f"[{name}]"] if name else []) + body]
    path.write_text("\n".join(parts) + "\n")


def take(path: pathlib.Path, section: str, option: str) -> str:
    """What an option is set to, empty when it is not."""
    for name, lines in sections(path.read_text()):
        place = place_of(lines, option)
        if name == section and place is not None:
            return lines[place].partition("=")[2].strip()
    return ""


if __name__ == "__main__":
    if sys.argv[1] == "set":
        put(pathlib.Path(sys.argv[2]), *sys.argv[3:])
    else:
        sys.stdout.write(take(pathlib.Path(sys.argv[2]), *sys.argv[3:]))
