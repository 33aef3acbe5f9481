"""Mutations of good input: flips, cuts, insertions, lengths at their ends.

A plan is drawn first and applied later, because what it is applied to may differ from run to run
(signatures are random).
"""

from __future__ import annotations

from hypothesis import strategies as st

Change = tuple[str, int, int, bytes]
Plan = list[Change]

PLANS: st.SearchStrategy[Plan] = st.lists(
    st.tuples(
        st.sampled_from(("flip", "cut", "insert", "ones", "zeros", "double")),
        st.integers(0, (1 << 16) - 1),
        st.integers(1, 64),
        st.binary(max_size=8),
    ),
    max_size=4,
)


def apply(plan: Plan, good: bytes) -> bytes:
    """Return ``good`` after the plan's changes; places count from the start, modulo the length."""
    data = bytearray(good)
    for kind, place, size, extra in plan:
        at = place % (len(data) or 1)
        if kind == "flip" and data:
            data[at] ^= 1 << size % 8
        elif kind == "cut":
            del data[at : at + size]
        elif kind == "insert":
            data[at:at] = extra
        elif kind in ("ones", "zeros"):
            width = size % 8 + 1
            data[at : at + width] = (b"\xff" if kind == "ones" else b"\0") * width
        else:
            data[at:at] = data[at : at + size]
    return bytes(data)


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    """Return mutations of ``good``."""
    return PLANS.map(lambda plan: apply(plan, good))
