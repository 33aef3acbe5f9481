"""A bitmap over bytes that may be a mapped file, so that it outlives the process that wrote it.

One bit an item, least significant bit of each byte first. Not safe against threads: its user holds
a lock.
"""

from __future__ import annotations

import mmap

from nova_trusted_clone.core.errors import MalformedInput

Storage = bytearray | mmap.mmap | memoryview


def bitmap_bytes(items: int) -> int:
    """How many bytes ``items`` bits take."""
    return (items + 7) // 8


class Bitmap:
    """``items`` bits, all unset at first unless the storage says otherwise.

    :raises MalformedInput: when the storage has another size, or bits beyond the last item
    """

    def __init__(self, items: int, storage: Storage | None = None) -> None:
        size = bitmap_bytes(items)
        self._bits = memoryview(bytearray(size) if storage is None else storage)[:]
        if len(self._bits) != size:
            raise MalformedInput(
                f"a bitmap of {items} items takes {size} bytes, not {len(self._bits)}"
            )
        if items % 8 and self._bits[-1] >> (items % 8):
            raise MalformedInput(f"a bitmap of {items} items has bits beyond them")
        self.items = items
        self._count = int.from_bytes(self._bits, "little").bit_count()

    @classmethod
    def from_bytes(cls, items: int, raw: bytes) -> Bitmap:
        """A bitmap with the bits of ``raw``."""
        return cls(items, bytearray(raw))

    def to_bytes(self) -> bytes:
        """The bits."""
        return self._bits.tobytes()

    def __getitem__(self, index: int) -> bool:
        self._require(index, index + 1)
        return bool(self._bits[index // 8] >> (index % 8) & 1)

    @property
    def count(self) -> int:
        """How many are set."""
        return self._count

    @property
    def complete(self) -> bool:
        """Whether all are set."""
        return self._count == self.items

    def set_range(self, start: int, stop: int) -> None:
        """Set the bits from ``start`` up to and without ``stop``."""
        self._require(start, stop)
        self._or((((1 << (stop - start)) - 1) << (start % 8)), start // 8, bitmap_bytes(stop))

    def set_from(self, start: int, bits: int) -> None:
        """Set bit ``start + n`` for every bit n that is set in the integer ``bits``."""
        if bits:
            self._require(start, start + bits.bit_length())
            self._or(bits << (start % 8), start // 8, bitmap_bytes(start + bits.bit_length()))

    def bits(self, start: int, stop: int) -> int:
        """The bits from ``start`` up to and without ``stop`` as an integer, the first in its least
        significant bit."""
        self._require(start, stop)
        raw = int.from_bytes(self._bits[start // 8 : bitmap_bytes(stop)], "little")
        return raw >> (start % 8) & ((1 << (stop - start)) - 1)

    def all_set(self, start: int, stop: int) -> bool:
        """Whether every bit from ``start`` up to and without ``stop`` is set."""
        return self.bits(start, stop) == (1 << (stop - start)) - 1

    def first_unset(self, start: int = 0) -> int | None:
        """The first item from ``start`` on that is not set; None when there is none."""
        index = start
        while index < self.items:
            byte = self._bits[index // 8] >> (index % 8)
            if byte == 0xFF >> (index % 8):
                index = (index // 8 + 1) * 8
                continue
            index += (~byte & (byte + 1)).bit_length() - 1
            return index if index < self.items else None
        return None

    def release(self) -> None:
        """Let the storage go; the bitmap is of no use after."""
        self._bits.release()

    def _or(self, bits: int, first_byte: int, end_byte: int) -> None:
        old = int.from_bytes(self._bits[first_byte:end_byte], "little")
        new = old | bits
        self._bits[first_byte:end_byte] = new.to_bytes(end_byte - first_byte, "little")
        self._count += new.bit_count() - old.bit_count()

    def _require(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.items:
            raise IndexError(f"items {start} to {stop} of {self.items}")
