"""Whatever the bytes: a core error, or a manifest that encodes to the same bytes."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.integrity.manifest import Region, RegionTable
from nova_trusted_clone.core.integrity.segment import SegmentManifest

REGION = Region(1, "ram", "a", 40 * 4096)
GOOD = SegmentManifest.of(bytes(16), REGION, 0, b"".join(bytes([n % 3]) * 4096 for n in range(40)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(raw: bytes) -> None:
    with contextlib.suppress(CoreError):
        assert SegmentManifest.decode(raw).encode() == raw


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_manifest_with_some_bytes_changed(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(GOOD.encode())
    for place, value in changes:
        raw[place] = value
    with contextlib.suppress(CoreError):
        assert SegmentManifest.decode(bytes(raw)).encode() == raw


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_table_of_regions(value: object) -> None:
    with contextlib.suppress(CoreError):
        RegionTable.from_rows(value)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3 * 4096 + 5))
def test_any_content_is_described_and_checked(data: bytes) -> None:
    if not data:
        return
    region = Region(1, "ram", "a", len(data))
    manifest = SegmentManifest.of(bytes(16), region, 0, data)
    assert SegmentManifest.decode(manifest.encode()) == manifest
