"""Made-up content: bytes that nothing compresses and no zero page among them."""

from __future__ import annotations

import pathlib

import numpy as np

BLOCK_BYTES = 8 << 20


def fill(path: pathlib.Path, size_bytes: int, seed: int = 5) -> None:
    """Write a file of random bytes; a block of 8 MiB again and again, each time shifted so that no two are the same.

    :raises OSError: no room
    """
    block = np.random.default_rng(seed).bytes(BLOCK_BYTES)
    with path.open("wb", buffering=0) as file:
        left, shift = size_bytes, 0
        while left:
            part = memoryview(block)[shift : shift + min(left, BLOCK_BYTES - shift)]
            left -= file.write(part)
            shift = (shift + 4097) % (BLOCK_BYTES // 2)


def sparse(path: pathlib.Path, data_bytes: int, size_bytes: int) -> None:
    """A file whose first part is random bytes and whose rest is a hole."""
    fill(path, data_bytes)
    with path.open("r+b") as file:
        file.truncate(size_bytes)
