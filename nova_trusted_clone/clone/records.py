"""Small records on disk: what a restarted service needs to take a clone over or to take it back.

A record is written whole or not at all. Its directory is private to the service.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import threading
from collections.abc import Mapping
from typing import Any

MAX_RECORD_BYTES = 16 << 20
HEX_ID = re.compile(r"[0-9a-f]{32}")


class RecordError(Exception):
    """A record cannot be read: it says which file and why."""


def write(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Write atomically, mode 0600, and make it last. Two threads may write one record: the later one stays.

    :raises OSError: naming the file; what was there before still is
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(record, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A full disk is told by the write, which knows no name.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def read(path: pathlib.Path) -> dict[str, Any]:
    """Read what ``write`` wrote.

    :raises RecordError: when there is none or it is not a record
    """
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise RecordError(f"{path}: larger than {MAX_RECORD_BYTES} bytes")
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: {error}") from error
    if not isinstance(record, dict):
        raise RecordError(f"{path}: a map was expected")
    return record


def require_hex_id(value: str, what: str) -> str:
    """Return an id that is safe as a file name: 32 lower-case hexadecimal digits.

    :raises RecordError: for anything else (a path, for one)
    """
    if not HEX_ID.fullmatch(value):
        raise RecordError(
            f"{what}: 32 lower-case hexadecimal digits expected, found {value[:64]!r}"
        )
    return value
