"""The tables: complete, without dead ends, and the same as what the sessions do."""

from __future__ import annotations

from typing import Any

import pytest

from nova_trusted_clone.core.protocol import events, states
from nova_trusted_clone.core.protocol.states import (
    DESTINATION,
    DESTINATION_ENDS,
    SOURCE,
    SOURCE_ENDS,
    DestinationState,
    SourceState,
    Step,
)
from tests.unit.core.world import World

SIDES: list[Any] = [
    (SOURCE, SourceState, SOURCE_ENDS),
    (DESTINATION, DestinationState, DESTINATION_ENDS),
]


@pytest.mark.parametrize(("table", "kind", "ends"), SIDES)
def test_every_state_is_reached_and_only_ends_end(table: Any, kind: Any, ends: Any) -> None:
    reached = {kind.NEW}
    while more := {to for (state, _), to in table.items() if state in reached} - reached:
        reached |= more
    assert reached == set(kind)
    assert {state for state, _ in table} == set(kind) - ends


@pytest.mark.parametrize(("table", "kind", "ends"), SIDES)
def test_completion_is_reached_only_through_every_proof(table: Any, kind: Any, ends: Any) -> None:
    """Leave out any one state's way forward, and nothing completes but by the other vTPM mode's
    way."""
    forward = {k: v for k, v in table.items() if k[1] not in (Step.REFUSED, Step.ABORTED)}
    needed = {
        SourceState: {"AWAITING_ANSWER", "AWAITING_VTPM", "QUOTING_PAGE_KEY", "AWAITING_RECEIPT"},
        DestinationState: {
            "AWAITING_CHALLENGE",
            "AWAITING_CONFIRMATION",
            "AWAITING_PAGE_KEY",
            "AWAITING_FINAL",
        },
    }[kind]
    for name in needed:
        reached = {kind.NEW}
        while (
            more := {
                to for (state, _), to in forward.items() if state in reached and state.name != name
            }
            - reached
        ):
            reached |= more
        assert kind.COMPLETE not in reached


@pytest.mark.parametrize("make", [World.source, World.destination])
def test_each_session_handles_exactly_what_its_table_has(make: Any) -> None:
    session = make(World())
    in_table = {
        (state, kind)
        for kind, steps in states.STEPS.items()
        for (state, step) in session.TABLE
        if step in steps and kind is not events.Abort
    }
    assert set(session._handlers) == in_table


def test_the_diagram_names_every_state_in_words() -> None:
    told = states.diagram()
    for state in (*SourceState, *DestinationState):
        assert state.value in told
    assert "new" in told
    assert "_" not in told
