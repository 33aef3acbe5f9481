"""A clone's whole story in the control plane, from the request to evidence that was verified."""

import copy

import pytest

from nova_trusted_clone.conductor.servers import Said, Word
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.rpc import errors
from tests.unit.conductor.cloud import GROUP, NONCE, SOURCE, server


def test_one_clone_from_the_request_to_verified_evidence(cloud):
    cloud.ask_for(1)
    assert cloud.phases() == ["scheduling"]
    attempt = cloud.claim()
    assert cloud.phases() == ["claimed"]
    cloud.look()
    assert cloud.phases() == ["ordered"]
    assert list(cloud.computes.freezes) == [cloud.record().freeze_id]
    for phase in ("attesting", "fetching", "restoring", "provisional"):
        cloud.conductor.report(attempt, {"phase": phase})
        assert cloud.phases() == [phase]
    cloud.conductor.complete(attempt, cloud.computes.evidence(attempt))
    record = cloud.record()
    assert (record.phase, record.pause_us, record.completed_at) == (
        "complete",
        23_000,
        cloud.clock(),
    )
    assert cloud.conductor.evidence(record.id)["clone"]["tenant_nonce"] == NONCE
    told = [after for _, _, after in cloud.told]
    assert told == ["ordered", "attesting", "fetching", "restoring", "provisional", "complete"]


def test_an_order_says_what_was_asked_for(cloud):
    attempt = cloud.ordered()[0]
    _, _, raw = cloud.computes.prepared[attempt]
    order = SignedOrder.decode(raw).order()
    assert order.clone_id.hex() == attempt
    assert order.freeze_group.hex() == cloud.record().freeze_id != GROUP
    assert (order.source_host, order.destination_host) == ("left", "right")
    assert (order.project_id, order.user_id) == ("project", "user")
    assert order.tenant_nonce.hex() == NONCE
    assert order.source_server.hex() == SOURCE.replace("-", "")
    assert order.destination_server.hex() == server(0).replace("-", "")
    assert order.policy_sha256 == cloud.world.policy.sha256


def test_the_tenants_token_goes_with_the_orders(cloud):
    cloud.ordered()
    calls = dict(zip(cloud.computes.calls, cloud.computes.contexts, strict=True))
    assert calls["clone", "compute-1"].auth_token == "t"


def test_clones_of_one_request_are_made_from_one_freeze(cloud):
    attempts = cloud.ordered(3)
    (orders,) = cloud.computes.freezes.values()
    assert {SignedOrder.decode(raw).order().clone_id.hex() for raw, _ in orders} == set(attempts)
    assert len({cloud.record(n).freeze_id for n in range(3)}) == 1


def test_one_clone_that_fails_ends_alone(cloud):
    attempts = cloud.ordered(3)
    cloud.conductor.report(
        attempts[1], {"phase": "failed", "reason": "PCR 4", "code": "trusted-clone.policy.pcr-4"}
    )
    assert cloud.phases(3) == ["ordered", "failed", "ordered"]
    assert cloud.record(1).reason == "PCR 4"


def test_who_comes_late_gets_a_freeze_of_its_own(cloud):
    cloud.ask_for(2)
    cloud.claim(0)
    cloud.look()
    assert cloud.phases(2) == ["claimed", "scheduling"]
    cloud.clock.passes(15)
    cloud.look()
    assert cloud.phases(2) == ["ordered", "scheduling"]
    cloud.claim(1)
    cloud.look()
    assert cloud.phases(2) == ["ordered", "ordered"]
    assert len(cloud.computes.freezes) == 2


def test_a_claim_may_come_before_the_servers_are_named(cloud):
    cloud.begin(1)
    attempt = cloud.claim()
    cloud.look()
    assert cloud.computes.calls == []
    cloud.register(1)
    assert (cloud.record().phase, cloud.record().attempt_id) == ("claimed", attempt)
    cloud.look()
    assert cloud.phases() == ["ordered"]


def test_another_host_after_one_that_was_refused(cloud):
    first = cloud.ordered()[0]
    why = ("PCR 0 of right is bad", "trusted-clone.host.refused")
    cloud.conductor.fail(GROUP, server(0), first, moves_why(*why), retry=True)
    assert (cloud.record().phase, cloud.record().reason) == ("scheduling", why[0])
    cloud.clock.passes(1)
    second = cloud.claim(0, "compute-1")
    cloud.look()
    record = cloud.record()
    assert (record.phase, record.attempt_id, record.host) == ("ordered", second, "compute-1")
    view = cloud.conductor.views([record])[0]
    assert [(one["attempt_id"], one["host"], one["reason"]) for one in view["attempts"]] == [
        (first, "compute-2", why[0]),
        (second, "compute-1", None),
    ]
    assert (cloud.computes.aborted and cloud.computes.aborted[0][1]) == first


def test_the_same_message_twice_counts_once(cloud):
    cloud.ask_for(1)
    cloud.ask_for(1)
    assert cloud.claim() == cloud.claim()
    cloud.look()
    cloud.look()
    attempt = cloud.record().attempt_id
    assert len(cloud.computes.freezes) == 1
    evidence = cloud.computes.evidence(attempt)
    cloud.conductor.complete(attempt, evidence)
    cloud.conductor.complete(attempt, evidence)
    assert [after for _, _, after in cloud.told].count("complete") == 1


def test_a_nonce_is_made_where_the_tenant_gives_none(cloud):
    made = cloud.begin(nonce=None)
    assert len(bytes.fromhex(made)) == 16
    assert cloud.begin(nonce=None) == made


def test_lineage_goes_back_to_the_first_server(cloud):
    attempt = cloud.ordered()[0]
    cloud.conductor.complete(attempt, cloud.computes.evidence(attempt))
    cloud.begin(group="cd" * 16, source_server=server(0), source_host="compute-2")
    (child,) = cloud.conductor.register(None, "cd" * 16, [{"server": server(9), "name": "web-9"}])
    assert child.lineage == (server(0), SOURCE)


def test_reports_may_be_late_or_lost(cloud):
    attempt = cloud.ordered()[0]
    cloud.conductor.report(attempt, {"phase": "provisional", "pause_us": 31_000})
    cloud.conductor.report(attempt, {"phase": "fetching", "progress": {"pages_verified": 12}})
    record = cloud.record()
    assert (record.phase, record.pause_us) == ("provisional", 31_000)
    assert record.progress == {"pages_verified": 12}


# -- ends ---------------------------------------------------------------------------------------------------------------


def moves_why(reason, code="trusted-clone.test"):
    from nova_trusted_clone.conductor.moves import Why

    return Why(reason, code)


def test_an_abort_reaches_both_hosts(cloud):
    attempt = cloud.ordered()[0]
    cloud.conductor.abort(cloud.record().id, "changed my mind")
    assert (cloud.record().phase, cloud.record().reason) == ("aborted", "changed my mind")
    assert cloud.computes.ended == [("compute-2", attempt, "changed my mind")]
    assert cloud.computes.aborted == [(cloud.record().freeze_id, attempt)]
    with pytest.raises(errors.Conflict) as caught:
        cloud.conductor.report(attempt, {"phase": "fetching"})
    assert caught.value.code == "trusted-clone.attempt.over"


def test_a_complete_clone_is_not_aborted(cloud):
    attempt = cloud.ordered()[0]
    cloud.conductor.complete(attempt, cloud.computes.evidence(attempt))
    with pytest.raises(errors.Conflict, match="delete the server"):
        cloud.conductor.abort(cloud.record().id, "too late")
    assert cloud.phases() == ["complete"]


def test_a_request_that_is_taken_back_ends_what_waits_in_it(cloud):
    cloud.ask_for(2)
    attempt = cloud.claim(0)
    cloud.conductor.cancel(GROUP, "quota")
    assert cloud.phases(2) == ["aborted", "aborted"]
    assert [(host, clone) for host, clone, _ in cloud.computes.ended] == [("compute-2", attempt)]
    with pytest.raises(errors.Conflict, match="taken back"):
        cloud.claim(1)


def test_a_claim_before_a_request_that_is_taken_back_is_dismissed(cloud):
    cloud.begin(1)
    attempt = cloud.claim()
    cloud.conductor.cancel(GROUP, "the servers were not made")
    cloud.look()
    assert [clone for _, clone, _ in cloud.computes.ended] == [attempt]
    cloud.look()
    assert len(cloud.computes.ended) == 1


def test_an_obstacle_at_the_source_fails_all_with_the_reason(cloud):
    cloud.computes.shape["obstacles"] = ["it has a PCI device"]
    attempts = cloud.ordered(2)
    assert cloud.phases(2) == ["failed", "failed"]
    assert "PCI device" in cloud.record(0).reason
    assert {clone for _, clone, _ in cloud.computes.ended} == set(attempts)
    assert cloud.computes.prepared == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"running": False}, "not running"),
        ({"has_generation_id": False}, "generation id"),
        ({"has_vtpm": False}, "no vTPM"),
        ({"policy_sha256": "00" * 32}, "another policy"),
        ({"host_id": "stranger"}, "not enrolled"),
    ],
)
def test_what_the_source_is_decides_before_anything_begins(cloud, change, told):
    cloud.computes.shape.update(change)
    cloud.ordered()
    assert cloud.phases() in (["failed"], ["scheduling"])
    assert told in cloud.record().reason
    assert cloud.computes.prepared == {} and cloud.computes.freezes == {}


def test_a_source_that_is_away_fails_all_with_the_reason(cloud):
    cloud.computes.failing["clone", "compute-1"] = errors.Unavailable("no answer")
    cloud.ordered(2)
    assert cloud.phases(2) == ["failed", "failed"]
    assert cloud.record().reason == "no answer"
    # It may have begun all the same.
    assert cloud.computes.aborted[-1] == (cloud.record().freeze_id, None)


def test_a_destination_that_refuses_its_order_leaves_the_others_alone(cloud):
    cloud.ask_for(2)
    cloud.claim(0, "compute-1")
    good = cloud.claim(1, "compute-2")
    cloud.computes.failing["prepare", "compute-1"] = errors.Refused("receives 8 clones already")
    cloud.look()
    assert cloud.phases(2) == ["scheduling", "ordered"]
    assert cloud.record(0).reason == "receives 8 clones already"
    (orders,) = cloud.computes.freezes.values()
    assert [SignedOrder.decode(raw).order().clone_id.hex() for raw, _ in orders] == [good]


def test_a_host_that_gives_up_after_its_order_was_refused_ends_the_record(cloud):
    """The conductor has left the attempt already; nova will try no other host."""
    cloud.computes.failing["prepare", "compute-2"] = errors.Refused("another policy")
    attempt = cloud.ordered()[0]
    assert cloud.phases() == ["scheduling"]
    cloud.conductor.fail(GROUP, server(0), attempt, moves_why("another policy"), retry=False)
    assert cloud.phases() == ["failed"]


def test_what_is_told_late_of_a_former_attempt_does_not_end_the_next(cloud):
    first = cloud.ordered()[0]
    cloud.conductor.fail(GROUP, server(0), first, moves_why("PCR 0"), retry=True)
    cloud.clock.passes(1)
    cloud.claim(0, "compute-1")
    cloud.look()
    for retry in (True, False):
        cloud.conductor.fail(GROUP, server(0), first, moves_why("PCR 0"), retry=retry)
    assert cloud.phases() == ["ordered"]


def test_a_host_that_is_not_enrolled_may_not_claim(cloud):
    cloud.ask_for(1)
    with pytest.raises(errors.Refused, match="not enrolled"):
        cloud.conductor.claim(None, GROUP, server(0), "compute-9", "stranger")
    assert cloud.phases() == ["scheduling"]


# -- lies -----------------------------------------------------------------------------------------------------------------


def forged(evidence, part):
    changed = copy.deepcopy(evidence)
    if part == "summary":
        changed["clone"]["pause_us"] = 1
    elif part == "message":
        changed["messages"]["receipt"] = changed["messages"]["final"]
    elif part == "format":
        changed["format"] = "trusted-clone-evidence/2"
    elif part == "empty":
        changed = {}
    return changed


@pytest.mark.parametrize("part", ["summary", "message", "format", "empty"])
def test_evidence_that_does_not_hold_changes_nothing(cloud, part):
    attempt = cloud.ordered()[0]
    cloud.conductor.report(attempt, {"phase": "provisional"})
    before = cloud.record()
    with pytest.raises(errors.Refused, match="does not hold"):
        cloud.conductor.complete(attempt, forged(cloud.computes.evidence(attempt), part))
    assert cloud.record() == before


def test_evidence_of_another_clone_changes_nothing(cloud):
    first, second = cloud.ordered(2)
    with pytest.raises(errors.Refused) as caught:
        cloud.conductor.complete(first, cloud.computes.evidence(second))
    assert caught.value.code == "trusted-clone.evidence.other-order"
    assert cloud.phases(2) == ["ordered", "ordered"]


def test_nobody_is_complete_by_saying_so(cloud):
    attempt = cloud.ordered()[0]
    with pytest.raises(errors.Invalid, match="evidence"):
        cloud.conductor.report(attempt, {"phase": "complete"})
    assert cloud.phases() == ["ordered"]


@pytest.mark.parametrize("phase", ["attesting", "provisional"])
def test_a_report_before_the_order_is_not_believed(cloud, phase):
    cloud.ask_for(1)
    attempt = cloud.claim()
    with pytest.raises(errors.Conflict):
        cloud.conductor.report(attempt, {"phase": phase})
    assert cloud.phases() == ["claimed"]


def test_strangers_ids_are_not_known(cloud):
    cloud.ask_for(1)
    strange = "ee" * 16
    for attempt in (
        lambda: cloud.conductor.report(strange, {"phase": "fetching"}),
        lambda: cloud.conductor.complete(strange, {}),
        lambda: cloud.conductor.claim(None, strange, server(0), "compute-2", "right"),
        lambda: cloud.conductor.claim(None, GROUP, server(7), "compute-2", "right"),
        lambda: cloud.conductor.fail(GROUP, server(7), None, moves_why("x"), retry=False),
        lambda: cloud.conductor.cancel(strange, "x"),
        lambda: cloud.conductor.get(server(7)),
        lambda: cloud.conductor.evidence(server(7)),
        lambda: cloud.conductor.abort(server(7), "x"),
        lambda: cloud.conductor.register(None, strange, []),
    ):
        with pytest.raises(errors.NotFound):
            attempt()
    assert cloud.phases() == ["scheduling"]


def test_more_servers_than_were_asked_for_are_not_recorded(cloud):
    cloud.begin(1)
    with pytest.raises(errors.Conflict, match="more servers"):
        cloud.register(2)
    assert cloud.record(0) is None


def test_a_group_is_one_requests(cloud):
    cloud.begin(1)
    with pytest.raises(errors.Conflict, match="another request"):
        cloud.begin(2)


def test_claims_without_end_are_somebodys_mischief(cloud):
    cloud.ask_for(1)
    with pytest.raises(errors.Conflict, match="attempts"):
        for number in range(40):
            cloud.claim(0, f"compute-{1 + number % 2}")


# -- stale ----------------------------------------------------------------------------------------------------------------


def stale(cloud):
    cloud.worker.stale.look()


def test_a_killed_workers_freeze_is_taken_up_by_the_restarted_service(cloud):
    """Killed after the orders were signed and before the source had them."""

    def killed():
        raise KeyboardInterrupt

    cloud.computes.failing["clone", "compute-1"] = killed
    with pytest.raises(KeyboardInterrupt):
        cloud.ordered()
    assert cloud.phases() == ["ordered"] and cloud.computes.freezes == {}
    cloud.computes.failing.clear()
    cloud.restart("second")
    stale(cloud)
    assert list(cloud.computes.freezes) == [cloud.record().freeze_id]
    stale(cloud)
    assert cloud.computes.calls.count(("clone", "compute-1")) == 2


@pytest.mark.parametrize("step", ["inspect", "prepare", "clone"])
def test_another_machine_takes_it_up_when_the_lease_ends(cloud, step):
    def killed():
        raise KeyboardInterrupt

    host = "compute-2" if step == "prepare" else "compute-1"
    cloud.computes.failing[step, host] = killed
    with pytest.raises(KeyboardInterrupt):
        cloud.ordered()
    cloud.computes.failing.clear()
    cloud.restart("first", host="control-2")
    stale(cloud)
    assert cloud.computes.freezes == {}
    cloud.clock.passes(61)
    stale(cloud)
    assert len(cloud.computes.freezes) == 1
    assert cloud.phases() == ["ordered"]


def test_a_worker_without_the_token_leaves_a_freeze_for_a_moment(cloud):
    cloud.ask_for(1)
    cloud.claim()
    cloud.restart("second")
    cloud.look()
    assert cloud.phases() == ["claimed"]
    cloud.clock.passes(3)
    cloud.look()
    assert cloud.phases() == ["ordered"]
    assert cloud.computes.contexts[-1].auth_token is None
    assert cloud.computes.contexts[-1].project_id == "project"


def test_a_server_that_nova_gave_up_ends_with_novas_fault(cloud):
    cloud.ask_for(1)
    cloud.nova.said[server(0)] = Said(Word.GAVE_UP, "No valid host was found")
    cloud.clock.passes(5)
    stale(cloud)
    assert cloud.phases() == ["failed"]
    assert "No valid host was found" in cloud.record().reason


def test_a_server_that_nova_gave_up_is_asked_for_its_fault_once_more(cloud):
    """It comes a moment after the state; one that never comes is not waited for."""
    cloud.ask_for(1)
    cloud.nova.said[server(0)] = Said(Word.GAVE_UP)
    cloud.clock.passes(5)
    stale(cloud)
    assert cloud.phases() == ["scheduling"]
    cloud.clock.passes(45)
    stale(cloud)
    assert (cloud.record().phase, cloud.record().code) == ("failed", "trusted-clone.server.error")


def test_a_server_that_nova_gave_up_after_a_host_failed_has_that_hosts_checks_in_its_record(cloud):
    attempt = cloud.ordered()[0]
    why = moves_why("PCR 4 of right is bad", "trusted-clone.policy.pcr-4")
    cloud.conductor.fail(GROUP, server(0), attempt, why, retry=True)
    cloud.nova.said[server(0)] = Said(Word.GAVE_UP, "Exceeded maximum number of retries")
    cloud.clock.passes(5)
    stale(cloud)
    record = cloud.record()
    assert (record.phase, record.code) == ("failed", "trusted-clone.policy.pcr-4")
    assert "PCR 4" in record.reason and "maximum number of retries" in record.reason


def test_a_deleted_server_ends_its_clone_at_both_hosts(cloud):
    attempt = cloud.ordered()[0]
    cloud.nova.said[server(0)] = Said(Word.GONE)
    cloud.clock.passes(5)
    stale(cloud)
    assert (cloud.phases(), cloud.record().code) == (["failed"], "trusted-clone.server.deleted")
    assert [clone for _, clone, _ in cloud.computes.ended] == [attempt]
    assert cloud.computes.aborted == [(cloud.record().freeze_id, attempt)]


def test_a_silent_host_is_asked_and_what_it_forgot_ends(cloud):
    cloud.ordered()
    cloud.computes.states.clear()
    cloud.clock.passes(46)
    stale(cloud)
    assert cloud.phases() == ["failed"]
    assert "knows nothing" in cloud.record().reason


def test_a_silent_host_that_goes_on_is_believed(cloud):
    attempt = cloud.ordered()[0]
    cloud.computes.states[attempt] = {"phase": "fetching"}
    cloud.clock.passes(46)
    stale(cloud)
    assert cloud.phases() == ["fetching"]
    cloud.computes.states[attempt] = {"phase": "failed", "reason": "the network"}
    cloud.clock.passes(46)
    stale(cloud)
    assert (cloud.phases(), cloud.record().reason) == (["failed"], "the network")


def test_a_host_that_does_not_answer_has_until_the_limit(cloud):
    cloud.ordered()
    cloud.computes.failing["status", "compute-2"] = errors.Unavailable("no answer")
    cloud.clock.passes(500)
    stale(cloud)
    assert cloud.phases() == ["ordered"]
    cloud.clock.passes(101)
    stale(cloud)
    assert (cloud.phases(), cloud.record().code) == (["failed"], "trusted-clone.stale")


def test_a_host_that_says_complete_must_hand_in_evidence(cloud):
    attempt = cloud.ordered()[0]
    cloud.computes.states[attempt] = {"phase": "complete"}
    cloud.clock.passes(100)
    stale(cloud)
    assert cloud.phases() == ["ordered"]
    cloud.clock.passes(501)
    stale(cloud)
    assert cloud.phases() == ["failed"]
    assert "no evidence" in cloud.record().reason


def test_a_server_that_nobody_claims_ends(cloud):
    cloud.ask_for(1)
    cloud.clock.passes(601)
    stale(cloud)
    assert cloud.phases() == ["failed"]
    assert "no host claimed" in cloud.record().reason


def test_a_request_whose_servers_are_never_named_is_taken_back(cloud):
    cloud.begin(1)
    attempt = cloud.claim()
    cloud.clock.passes(601)
    stale(cloud)
    cloud.look()
    assert [clone for _, clone, _ in cloud.computes.ended] == [attempt]
    with pytest.raises(errors.Conflict):
        cloud.register(1)
