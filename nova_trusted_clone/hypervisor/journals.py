"""Journals: what is about to be done on this host, written down before it is done, so that it can be taken back.

A journal is a file of JSON in the directory of its freeze or clone. It is written whole or not at all, and it lasts.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nova_trusted_clone.hypervisor.base import HypervisorError

MAX_JOURNAL_BYTES = 16 << 20
Record = TypeVar("Record")


def write(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Put a record in the place of the former one."""
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: pathlib.Path, record_of: Callable[[dict[str, Any]], Record]) -> Record | None:
    """The record there; None where nothing was done.

    :param record_of: checks and types what is written there; ValueError, KeyError and TypeError say that it is none
    :raises HypervisorError: it is there and not readable, naming the file
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JOURNAL_BYTES + 1)
        if len(raw) > MAX_JOURNAL_BYTES:
            raise ValueError(f"more than {MAX_JOURNAL_BYTES} bytes")
        return record_of(json.loads(raw))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HypervisorError(f"{path}: not a journal: {error!r}") from error
