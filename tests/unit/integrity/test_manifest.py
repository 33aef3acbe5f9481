"""The root binds every region and every segment's place; the table refuses what is ambiguous."""

from __future__ import annotations

import hashlib

import pytest

from nova_trusted_clone.core.errors import CoreError, MalformedInput
from nova_trusted_clone.core.integrity.manifest import (
    Counts,
    IncompleteManifest,
    ManifestRoot,
    Region,
    RegionTable,
)

FREEZE = bytes(range(16))
RAM = Region(1, "ram", "pc.ram", (2 << 20) + 1)
DISK = Region(2, "disk", "vda", 4096)
D = [hashlib.sha256(bytes([n])).digest() for n in range(4)]


def root(table: RegionTable, digests: dict[int, list[bytes]], freeze: bytes = FREEZE) -> str:
    made = ManifestRoot(freeze, table)
    for region in table.values():
        made.add_region(region, digests[region.id])
    return made.digest().hex()


def test_the_root_is_frozen() -> None:
    assert root(RegionTable([DISK, RAM]), {1: D[:3], 2: D[3:]}) == (
        "875d1db5d37222c6fc5824b20dbcc3a7c271fd36dee616a09de4c3c4176b09d7"
    )


def test_everything_counts() -> None:
    plain = root(RegionTable([RAM, DISK]), {1: D[:3], 2: D[3:]})
    other_name = Region(2, "disk", "vdb", 4096)
    other_size = Region(2, "disk", "vda", 4095)
    found = {
        plain,
        root(RegionTable([RAM, DISK]), {1: [D[1], D[0], D[2]], 2: D[3:]}),
        root(RegionTable([RAM, DISK]), {1: D[:3], 2: D[:1]}),
        root(RegionTable([RAM, DISK]), {1: D[:3], 2: D[3:]}, bytes(16)),
        root(RegionTable([RAM, other_name]), {1: D[:3], 2: D[3:]}),
        root(RegionTable([RAM, other_size]), {1: D[:3], 2: D[3:]}),
        root(RegionTable([RAM]), {1: D[:3]}),
    }
    assert len(found) == 7


def test_a_root_needs_every_segment_in_order() -> None:
    table = RegionTable([RAM, DISK])
    for digests in (D[:2], D, [D[0], b"", D[2]]):
        with pytest.raises(IncompleteManifest):
            ManifestRoot(FREEZE, table).add_region(RAM, digests)
    with pytest.raises(IncompleteManifest):
        ManifestRoot(FREEZE, table).add_region(DISK, D[:1])
    with pytest.raises(IncompleteManifest):
        ManifestRoot(FREEZE, table).digest()
    with pytest.raises(MalformedInput):
        ManifestRoot(b"short", table)


def test_a_region_knows_its_shape() -> None:
    assert (RAM.segments, RAM.leaves) == (3, 513)
    assert [RAM.segment_bytes(n) for n in range(3)] == [1 << 20, 1 << 20, 1]
    assert [RAM.segment_leaves(n) for n in range(3)] == [256, 256, 1]
    for index in (-1, 3):
        with pytest.raises(MalformedInput):
            RAM.segment_bytes(index)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ([0, "ram", "a", 1], "id"),
        ([1, "RAM", "a", 1], "kind"),
        ([1, "ram", "", 1], "name"),
        ([1, "ram", "a\n", 1], "name"),
        ([1, "ram", "a", 0], "size_bytes"),
        ([1, "ram", "a", 1 << 60], "size_bytes"),
        ([True, "ram", "a", 1], "id"),
        ([1, "ram", "a", 1.0], "size_bytes"),
        ([1, "ram", "a"], "regions"),
        ("1", "regions"),
    ],
)
def test_a_bad_region_names_its_field(row: object, field: str) -> None:
    with pytest.raises(CoreError, match=field):
        RegionTable.from_rows([row])


def test_a_table_has_no_doubles() -> None:
    rows = [[1, "ram", "a", 1], [2, "disk", "a", 1]]
    assert RegionTable.from_rows(rows).to_rows() == rows
    for row in ([1, "disk", "b", 1], [3, "ram", "a", 1]):
        with pytest.raises(MalformedInput, match="twice"):
            RegionTable.from_rows([*rows, row])
    for value in (None, {}, "x"):
        with pytest.raises(MalformedInput):
            RegionTable.from_rows(value)


def test_counts_add_up() -> None:
    assert Counts(1, 2, 3, 4) + Counts(10, 20, 30, 40) == Counts(11, 22, 33, 44)
