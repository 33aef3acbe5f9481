"""Claims gathered into freezes, told by events and by properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_trusted_clone.conductor.gather import MAX_BATCH, Claim, Gathering, decide
from nova_trusted_clone.objects.clone import GroupState, Phase

LIMIT_S = 15.0


def gathering(servers, waiting, state=GroupState.REGISTERED):
    claims = tuple(Claim(f"a-{name}", name, at) for name, at in waiting.items())
    return Gathering(state, tuple(servers.items()), claims)


def test_one_server_waits_for_nobody():
    found = decide(gathering({"a": Phase.CLAIMED}, {"a": 100.0}), 100.0, LIMIT_S)
    assert found.attempts == ("a-a",)


def test_the_first_waits_for_the_others():
    there = gathering({"a": Phase.CLAIMED, "b": Phase.SCHEDULING}, {"a": 100.0})
    found = decide(there, 101.0, LIMIT_S)
    assert (found.attempts, found.again_at) == ((), 115.0)


def test_all_together_wait_no_longer():
    there = gathering({"a": Phase.CLAIMED, "b": Phase.CLAIMED}, {"a": 100.0, "b": 103.0})
    assert decide(there, 103.0, LIMIT_S).attempts == ("a-a", "a-b")


def test_the_limit_is_counted_from_the_first():
    there = gathering(
        {"a": Phase.CLAIMED, "b": Phase.CLAIMED, "c": Phase.SCHEDULING}, {"a": 100.0, "b": 114.0}
    )
    assert decide(there, 114.9, LIMIT_S).attempts == ()
    assert decide(there, 115.0, LIMIT_S).attempts == ("a-a", "a-b")


@pytest.mark.parametrize(
    "phase", [Phase.FAILED, Phase.ABORTED, Phase.ORDERED, Phase.COMPLETE, Phase.PROVISIONAL]
)
def test_nobody_waits_for_one_that_needs_no_freeze(phase):
    there = gathering({"a": Phase.CLAIMED, "b": phase}, {"a": 100.0})
    assert decide(there, 100.0, LIMIT_S).attempts == ("a-a",)


def test_before_the_servers_are_named_nothing_is_decided():
    there = gathering({}, {"a": 100.0}, GroupState.OPEN)
    found = decide(there, 1000.0, LIMIT_S)
    assert (found.attempts, found.dismissed, found.again_at) == ((), (), None)


def test_claims_of_a_request_that_was_taken_back_are_dismissed():
    there = gathering({"a": Phase.CLAIMED}, {"a": 100.0}, GroupState.CANCELLED)
    found = decide(there, 100.0, LIMIT_S)
    assert (found.attempts, found.dismissed) == ((), ("a-a",))


def test_a_claim_for_a_server_of_nobody_is_dismissed_and_the_others_go_on():
    there = gathering({"a": Phase.CLAIMED}, {"a": 100.0, "stranger": 90.0})
    found = decide(there, 100.0, LIMIT_S)
    assert (found.attempts, found.dismissed) == (("a-a",), ("a-stranger",))


def test_a_worker_in_a_worse_position_has_patience():
    there = gathering({"a": Phase.CLAIMED}, {"a": 100.0})
    assert decide(there, 100.0, LIMIT_S, patience_s=3).again_at == 103.0
    assert decide(there, 103.0, LIMIT_S, patience_s=3).attempts == ("a-a",)


def test_a_freeze_has_a_most():
    names = [f"s{n:03}" for n in range(MAX_BATCH + 5)]
    there = gathering(dict.fromkeys(names, Phase.CLAIMED), dict.fromkeys(names, 100.0))
    assert len(decide(there, 100.0, LIMIT_S).attempts) == MAX_BATCH


# -- properties ---------------------------------------------------------------------------------------------------------

SERVERS = st.sampled_from([f"s{n}" for n in range(6)])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), SERVERS),
        st.tuples(st.just("fail"), SERVERS),
        st.tuples(st.just("retry"), SERVERS),
        st.tuples(st.just("passes"), st.floats(0, 20)),
        st.tuples(st.just("cancel"), st.just("")),
    ),
    max_size=40,
)


class Model:
    """A group in memory, as the database would keep it."""

    def __init__(self, count, limit_s):
        self.now, self.limit_s = 0.0, limit_s
        self.state = GroupState.REGISTERED
        self.phases = {f"s{n}": Phase.SCHEDULING for n in range(count)}
        self.waiting = {}
        self.serial = 0
        self.frozen, self.dismissed, self.claimed = [], [], []

    def event(self, kind, what):
        if kind == "passes":
            self.now += what
        elif kind == "cancel":
            self.state = GroupState.CANCELLED
            self.phases = {s: p if p.ended else Phase.ABORTED for s, p in self.phases.items()}
        elif kind == "claim" and self.phases.get(what) in (Phase.SCHEDULING, Phase.CLAIMED, None):
            if self.state is GroupState.CANCELLED:
                return
            self.serial += 1
            self.waiting[what] = Claim(f"a{self.serial}", what, self.now)
            self.claimed.append(f"a{self.serial}")
            if what in self.phases:
                self.phases[what] = Phase.CLAIMED
        elif kind in ("fail", "retry") and self.phases.get(what) in (
            Phase.SCHEDULING,
            Phase.CLAIMED,
        ):
            self.waiting.pop(what, None)
            self.phases[what] = Phase.FAILED if kind == "fail" else Phase.SCHEDULING

    def look(self):
        there = Gathering(self.state, tuple(self.phases.items()), tuple(self.waiting.values()))
        found = decide(there, self.now, self.limit_s)
        for attempt in (*found.attempts, *found.dismissed):
            (claim,) = [c for c in self.waiting.values() if c.attempt_id == attempt]
            del self.waiting[claim.server_id]
            if attempt in found.attempts:
                self.phases[claim.server_id] = Phase.ORDERED
        if found.attempts:
            self.frozen.append(found.attempts)
        self.dismissed += found.dismissed
        return found


@given(st.integers(1, 5), EVENTS, st.floats(0, 30))
def test_every_claim_is_in_one_freeze_or_dismissed_and_none_waits_beyond_the_limit(
    count, events, limit_s
):
    model = Model(count, limit_s)
    for kind, what in events:
        model.event(kind, what)
        found = model.look()
        ids = [attempt for freeze in model.frozen for attempt in freeze] + model.dismissed
        assert len(ids) == len(set(ids)), "a claim counts once"
        assert not set(found.attempts) & set(found.dismissed)
        for claim in model.waiting.values():
            assert model.now < claim.claimed_at + limit_s, "it waits too long"
            assert found.again_at is not None, "somebody waits, and nobody looks again"
        assert all(claim.server_id in model.phases for claim in model.waiting.values())
    model.event("passes", limit_s)
    model.look()
    assert not model.waiting


@given(st.integers(1, 5), EVENTS)
def test_looking_at_the_time_it_said_is_enough(count, events):
    """Whoever looks only at events and at ``again_at`` misses nothing."""
    model = Model(count, LIMIT_S)
    for kind, what in events:
        if kind == "passes":
            continue
        model.event(kind, what)
        found = model.look()
        while found.again_at is not None:
            assert found.again_at > model.now
            model.now = found.again_at
            found = model.look()
        assert not model.waiting
