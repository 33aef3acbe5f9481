"""What was ordered beside what was frozen and counted."""

from __future__ import annotations

from collections.abc import Sequence

from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.protocol.messages import Counts, RegionRow
from nova_trusted_clone.core.protocol.order import Order

LEAF_BYTES, SEGMENT_BYTES = 4096, 1 << 20
# RAM blocks beside the guest's own memory: video memory, firmware, tables.
MAX_SMALL_BLOCK_BYTES = 256 << 20
REGION_KINDS = frozenset({"ram", "disk", "device", "domain", "vtpm"})


def regions(order: Order, rows: Sequence[RegionRow]) -> Verdict:
    """Judge whether the frozen regions are what was ordered: these disks, this memory, nothing
    unknown."""
    ids = [row[0] for row in rows]
    names = [(row[1], row[2]) for row in rows]
    verdict = Verdict.of(
        "trusted-clone.regions.unique",
        ids == sorted(set(ids)) and len(set(names)) == len(names),
        f"regions {ids[:32]}",
        "ascending ids, and each name once within its kind",
    )
    kinds = {row[1] for row in rows}
    allowed = REGION_KINDS - (set() if order.vtpm_mode == "derive" else {"vtpm"})
    verdict += Verdict.of(
        "trusted-clone.regions.kind",
        kinds <= allowed,
        ", ".join(sorted(kinds)),
        # A vTPM's state travels only where the order says that the clone's is derived from it.
        f"some of {', '.join(sorted(allowed))}",
    )
    paths = [name for _, name in names if ".." in name.split("/")]
    verdict += Verdict.of(
        "trusted-clone.regions.name", not paths, ", ".join(paths) or "no '..'", "no '..' in a name"
    )
    disks = sorted((name, size) for _, kind, name, size in rows if kind == "disk")
    verdict += Verdict.of(
        "trusted-clone.regions.disks", disks == sorted(order.disks), disks, sorted(order.disks)
    )
    memory = sum(size for _, kind, _, size in rows if kind == "ram")
    return verdict + Verdict.of(
        "trusted-clone.regions.memory",
        order.memory_bytes <= memory <= order.memory_bytes + MAX_SMALL_BLOCK_BYTES,
        f"{memory} bytes",
        f"{order.memory_bytes} bytes and at most {MAX_SMALL_BLOCK_BYTES} more",
    )


def counts(rows: Sequence[RegionRow], found: Counts) -> Verdict:
    """Judge whether counts are those of complete regions."""
    segments = sum(-(-size // SEGMENT_BYTES) for *_, size in rows)
    leaves = sum(-(-size // LEAF_BYTES) for *_, size in rows)
    return Verdict.of(
        "trusted-clone.counts.complete",
        (found.segments, found.leaves) == (segments, leaves) and found.zero_leaves <= leaves,
        f"{found.segments} segments, {found.leaves} leaves, {found.zero_leaves} of them zero",
        f"{segments} segments, {leaves} leaves",
    )


def same_transfer(
    code: str, root: bytes, found: Counts, expected_root: bytes, expected: Counts
) -> Verdict:
    """Judge whether two sides speak of the same bytes."""
    verdict = Verdict.equal(f"trusted-clone.{code}.root", root, expected_root)
    return verdict + Verdict.of(
        f"trusted-clone.{code}.counts", found == expected, found.row(), expected.row()
    )
