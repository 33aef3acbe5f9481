"""The phase table: what leads to what, and that nothing leads back or out of an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_trusted_clone.conductor import phases
from nova_trusted_clone.conductor.phases import TABLE, Step
from nova_trusted_clone.objects.clone import Phase
from nova_trusted_clone.rpc import shapes

ORDER = list(Phase)
BEFORE_IT_RUNS = {Phase.CLAIMED, Phase.ORDERED, Phase.ATTESTING, Phase.FETCHING, Phase.RESTORING}


def test_rpc_and_records_speak_of_the_same_phases():
    assert tuple(Phase) == shapes.PHASES


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.ended])
def test_nothing_leads_out_of_an_end(phase):
    assert not [step for step in Step if phases.following(phase, step)]


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.ended])
def test_whatever_has_not_ended_can_fail_and_be_aborted(phase):
    assert phases.following(phase, Step.FAIL) is Phase.FAILED
    assert phases.following(phase, Step.ABORT) is Phase.ABORTED


def test_only_evidence_completes_and_only_what_was_ordered():
    to_complete = {
        (phase, step) for (phase, step), after in TABLE.items() if after is Phase.COMPLETE
    }
    assert {step for _, step in to_complete} == {Step.PROVE}
    assert {phase for phase, _ in to_complete} == BEFORE_IT_RUNS - {Phase.CLAIMED} | {
        Phase.PROVISIONAL
    }


def test_a_host_cannot_say_complete_or_aborted_or_ordered():
    assert Step.PROVE not in phases.REPORTED.values()
    assert Step.ABORT not in phases.REPORTED.values()
    assert Step.ORDER not in phases.REPORTED.values()


def test_the_guest_that_runs_has_no_other_host():
    assert {phase for phase, step in TABLE if step is Step.CLAIM} == BEFORE_IT_RUNS | {
        Phase.SCHEDULING
    }
    assert {phase for phase, step in TABLE if step is Step.RETRY} == BEFORE_IT_RUNS | {
        Phase.SCHEDULING
    }


@given(st.lists(st.sampled_from(Step), max_size=30))
def test_whatever_comes_a_record_goes_forward_or_to_another_host(steps):
    """Any steps in any order, those that the table does not have being refused."""
    phase, seen = Phase.SCHEDULING, []
    for step in steps:
        after = phases.following(phase, step)
        if after is None:
            continue
        back = ORDER.index(after) < ORDER.index(phase)
        assert not back or step in (Step.RETRY, Step.CLAIM)
        seen.append((phase, step, after))
        phase = after
    ends = [after for _, _, after in seen if after.ended]
    assert len(ends) <= 1
    if phase is Phase.COMPLETE:
        last_claim = max(i for i, (_, step, _) in enumerate(seen) if step is Step.CLAIM)
        assert any(step is Step.ORDER for _, step, _ in seen[last_claim:]), (
            "complete without an order"
        )


@given(st.sampled_from(Phase), st.sampled_from(Phase))
def test_old_news_is_what_the_table_would_not_lead_to(reported, phase):
    if phases.is_behind(reported, phase):
        step = phases.REPORTED.get(reported)
        assert step is None or phases.following(phase, step) is not reported


def test_the_diagram_has_every_line_of_the_table():
    text = phases.diagram()
    common = {Step.FAIL, Step.ABORT}
    assert text.count("-->") == sum(1 for _, step in TABLE if step not in common) + 2
