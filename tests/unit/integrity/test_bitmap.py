"""The bitmap agrees with a set of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.integrity.bitmap import Bitmap

RANGES = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 300)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(RANGES, st.integers(1, 700))
def test_it_agrees_with_a_set(ranges: list[tuple[int, int]], items: int) -> None:
    bitmap, model = Bitmap(items), set()
    for start, length in ranges:
        start, stop = min(start, items), min(start + length, items)
        bitmap.set_range(start, stop)
        model |= set(range(start, stop))
        assert bitmap.all_set(start, stop)
    assert bitmap.count == len(model)
    assert bitmap.complete == (len(model) == items)
    assert [bitmap[n] for n in range(items)] == [n in model for n in range(items)]
    for start in (0, 1, 7, 8, items // 2):
        missing = [n for n in range(start, items) if n not in model]
        assert bitmap.first_unset(start) == (missing[0] if missing else None)
    assert Bitmap.from_bytes(items, bitmap.to_bytes()).to_bytes() == bitmap.to_bytes()


def test_scattered_bits_are_set_at_once() -> None:
    bitmap = Bitmap(40)
    bitmap.set_from(13, 0b1011)
    assert [n for n in range(40) if bitmap[n]] == [13, 14, 16]
    assert bitmap.bits(12, 18) == 0b010110


def test_what_is_out_of_range_is_refused() -> None:
    bitmap = Bitmap(10)
    for call in (
        lambda: bitmap.set_range(0, 11),
        lambda: bitmap.set_from(8, 0b100),
        lambda: bitmap[10],
        lambda: bitmap.bits(-1, 2),
    ):
        with pytest.raises(IndexError):
            call()


def test_storage_of_another_shape_is_refused() -> None:
    with pytest.raises(MalformedInput, match="2 bytes, not 1"):
        Bitmap.from_bytes(10, b"\0")
    with pytest.raises(MalformedInput, match="beyond"):
        Bitmap.from_bytes(10, b"\0\x04")
