"""Ids and nonces that are good for once."""

from __future__ import annotations

import pathlib


class UsedIds:
    """Ids and nonces that were used here, each an empty file: used once means once, over restarts too."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def first_use(self, kind: str, value: bytes) -> bool:
        """Return whether this is the first use, and remember it."""
        try:
            (self._directory / f"{kind}-{value.hex()}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class ReplayedUses:
    """For feeding a machine its own log again: what it was told then, it is told again."""

    def first_use(self, kind: str, value: bytes) -> bool:
        """Return True."""
        return True
