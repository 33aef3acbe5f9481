"""What every database must do; run on sqlite here, on MariaDB and PostgreSQL in tests/functional."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import secrets
import threading
import uuid
from typing import Any

import pytest
from alembic import autogenerate
from alembic.runtime import migration as alembic_migration

from nova_trusted_clone.db import migration, models
from nova_trusted_clone.db.clones import Change, Evidence
from nova_trusted_clone.db.engine import Database
from nova_trusted_clone.db.groups import Claiming, NotOfThisGroup, Situation, SourceBusy
from nova_trusted_clone.db.purge import purge
from nova_trusted_clone.db.store import Store
from nova_trusted_clone.objects.clone import (
    Attempt,
    Clone,
    Freeze,
    FreezeState,
    Group,
    GroupState,
    Phase,
)

NOW = datetime.datetime(2027, 1, 15, 8, 0, 0, 123456)
THREADS = 6


def group(**changes: Any) -> Group:
    base = Group(
        id=secrets.token_hex(16),
        source_server=str(uuid.uuid4()),
        source_host="compute-1",
        count=100,
        vtpm="new",
        memory="lazy",
        nonce="00" * 16,
        name="wéb-ü✓",
        project_id="project",
        user_id="user",
        created_at=NOW,
        request_id="req-1",
    )
    return dataclasses.replace(base, **changes)


def clone(of: Group, **changes: Any) -> Clone:
    base = Clone(
        id=str(uuid.uuid4()),
        group_id=of.id,
        name=of.name,
        server_id=str(uuid.uuid4()),
        source_id=of.source_server,
        project_id=of.project_id,
        user_id=of.user_id,
        source_host=of.source_host,
        phase=Phase.SCHEDULING,
        vtpm=of.vtpm,
        memory=of.memory,
        nonce=of.nonce,
        lineage=(of.source_server,),
        created_at=NOW,
        updated_at=NOW,
        heard_at=NOW,
    )
    return dataclasses.replace(base, **changes)


def attempt(of: Clone, host: str = "compute-2", **changes: Any) -> Attempt:
    made = Attempt(secrets.token_hex(16), of.group_id, of.server_id, host, "right", True, NOW)
    return dataclasses.replace(made, **changes)


def freeze(of: Group, worker: str = "w1", **changes: Any) -> Freeze:
    made = Freeze(
        secrets.token_hex(16),
        of.id,
        of.source_server,
        of.source_host,
        FreezeState.ORDERING,
        worker,
        NOW,
        NOW,
    )
    return dataclasses.replace(made, **changes)


def joined(record: Clone, one: Attempt) -> Clone:
    return dataclasses.replace(record, phase=Phase.CLAIMED, attempt_id=one.id, host=one.host)


def claiming(one: Attempt):
    def judge(there: Situation) -> Claiming:
        if there.attempt is not None:
            return Claiming(there.attempt)
        return Claiming(one, None if there.clone is None else joined(there.clone, one))

    return judge


def at_once(work, count: int = THREADS) -> list[Any]:
    """Run ``work(number)`` in threads that begin together."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait()
        return work(number)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


class Contract:
    """Needs a fixture ``database``: empty and migrated."""

    @pytest.fixture
    def store(self, database: Database) -> Store:
        return Store.of(database)

    def recorded(self, store: Store, count: int = 1, **changes: Any) -> tuple[Group, list[Clone]]:
        made = store.groups.begin(group())
        clones = [clone(made, **changes) for _ in range(count)]
        return made, store.groups.register(made.id, clones, 100, joined)

    # -- schema -------------------------------------------------------------------------------------------------------

    def test_migrations_lead_to_the_models(self, database):
        assert migration.version(database.engine) == migration.newest()
        with database.engine.connect() as connection:
            context = alembic_migration.MigrationContext.configure(connection)
            assert autogenerate.compare_metadata(context, models.Base.metadata) == []

    def test_a_migrated_database_is_migrated_again_without_a_change(self, database):
        migration.sync(database.engine)
        assert migration.version(database.engine) == migration.newest()

    # -- values -------------------------------------------------------------------------------------------------------

    def test_a_group_comes_back_as_it_was(self, store):
        made = group(name="🐍 " * 20)
        assert store.groups.begin(made) == made
        assert store.groups.get(made.id) == made
        assert store.groups.get("00" * 16) is None

    def test_a_record_comes_back_as_it_was(self, store):
        made, (record,) = self.recorded(store)
        later = dataclasses.replace(
            record,
            phase=Phase.PROVISIONAL,
            reason="ж" * 4096,
            progress={"pages_verified": 1 << 40},
            pause_us=1 << 40,
            completed_at=NOW,
        )
        store.clones.change(record.server_id, lambda seen, _: Change(later))
        found = store.clones.get(record.id)
        assert dataclasses.replace(found, revision=record.revision) == later
        assert store.clones.by_server(record.server_id) == found
        assert store.groups.get(made.id).state is GroupState.REGISTERED

    def test_evidence_comes_back_as_it_was(self, store):
        _, (record,) = self.recorded(store)
        content = {"format": "x", "text": "é" * 100_000, "noise": secrets.token_hex(1 << 20)}
        evidence = Evidence("ab" * 16, "cd" * 32, content)
        store.clones.change(record.server_id, lambda seen, _: Change(seen, evidence=evidence))
        assert store.clones.evidence(record.id) == evidence
        assert store.clones.evidence(str(uuid.uuid4())) is None

    # -- once ---------------------------------------------------------------------------------------------------------

    def test_the_same_group_begun_at_once_is_one(self, store):
        made = group()
        found = at_once(lambda n: store.groups.begin(dataclasses.replace(made, nonce=f"{n:032x}")))
        assert len({one.nonce for one in found}) == 1

    def begun(self, store: Store, wanted: Group) -> str:
        """How a request for clones was taken."""
        try:
            return store.groups.begin(wanted).id
        except SourceBusy as error:
            return str(error)

    def test_of_requests_for_one_source_at_once_one_is_taken(self, store):
        source = str(uuid.uuid4())
        wanted = [group(source_server=source) for _ in range(THREADS)]
        found = at_once(lambda n: self.begun(store, wanted[n]))
        (taken,) = [one for one in wanted if one.id in found]
        assert [one for one in found if one != taken.id] == [
            "another request for clones of it is being taken up at this moment"
        ] * (THREADS - 1)
        assert [one.id for one in wanted if store.groups.get(one.id)] == [taken.id]

    def test_of_requests_after_one_that_is_over_one_is_taken(self, store):
        former, (record,) = self.recorded(store)
        wanted = [group(source_server=former.source_server) for _ in range(THREADS)]
        assert self.begun(store, wanted[0]) == f"clone {record.id} is scheduling"
        over = dataclasses.replace(record, phase=Phase.COMPLETE)
        store.clones.change(record.server_id, lambda seen, _: Change(over))
        found = at_once(lambda n: self.begun(store, wanted[n]))
        assert len({one.id for one in wanted} & set(found)) == 1

    def test_a_request_after_one_that_was_taken_back(self, store):
        former = store.groups.begin(group())
        store.groups.cancel(former.id)
        wanted = group(source_server=former.source_server)
        assert self.begun(store, wanted) == wanted.id

    def test_the_same_servers_registered_at_once_have_one_record_each(self, store):
        made = store.groups.begin(group())
        clones = [clone(made) for _ in range(5)]

        def work(n: int) -> list[str]:
            mine = [dataclasses.replace(one, id=str(uuid.uuid4())) for one in clones]
            return [one.id for one in store.groups.register(made.id, mine, 5, joined)]

        assert len({tuple(found) for found in at_once(work)}) == 1
        assert len(store.clones.matching({"group": made.id})) == 5

    def test_the_same_claim_at_once_is_one(self, store):
        made, (record,) = self.recorded(store)
        found = at_once(
            lambda n: (
                store.groups.claim(made.id, record.server_id, claiming(attempt(record))).attempt.id
            )
        )
        assert len(set(found)) == 1
        assert store.clones.by_server(record.server_id).attempt_id == found[0]

    def test_a_claim_before_the_record_joins_it(self, store):
        made = store.groups.begin(group())
        record = clone(made)
        one = attempt(record)
        store.groups.claim(made.id, record.server_id, claiming(one))
        (found,) = store.groups.register(made.id, [record], 1, joined)
        assert (found.phase, found.attempt_id) == (Phase.CLAIMED, one.id)

    def test_a_freeze_is_taken_by_one_worker(self, store):
        made, records = self.recorded(store, 3)
        attempts = [
            store.groups.claim(made.id, one.server_id, claiming(attempt(one))).attempt.id
            for one in records
        ]
        assert store.freezes.waiting_groups() == [made.id]
        taken = at_once(lambda n: store.freezes.take(freeze(made, f"w{n}"), attempts))
        assert taken.count(True) == 1
        assert store.freezes.waiting_groups() == []

    def test_a_freeze_is_taken_whole_or_not_at_all(self, store):
        made, records = self.recorded(store, 2)
        first, second = (
            store.groups.claim(made.id, one.server_id, claiming(attempt(one))).attempt.id
            for one in records
        )
        assert store.freezes.take(freeze(made), [first])
        assert not store.freezes.take(freeze(made), [first, second])
        _, _, waiting = store.freezes.gathering(made.id)
        assert [one.id for one in waiting] == [second]

    def test_a_killed_workers_freeze_is_taken_up_by_one(self, store):
        made, _ = self.recorded(store)
        left = freeze(made, "killed")
        assert store.freezes.take(left, [])
        until = NOW + datetime.timedelta(minutes=1)
        held = at_once(
            lambda n: store.freezes.hold(left.id, f"w{n}", until, instead_of=("killed", NOW))
        )
        assert held.count(True) == 1
        assert not store.freezes.hold(left.id, "killed", until)
        (found,) = store.freezes.being_ordered()
        assert found.worker == f"w{held.index(True)}"
        store.freezes.close(left.id, FreezeState.STARTED)
        assert store.freezes.being_ordered() == []
        assert not store.freezes.hold(left.id, found.worker, until)

    def test_no_change_is_lost_among_many(self, store):
        _, (record,) = self.recorded(store)

        def count(seen: Clone, _: Any) -> Change:
            return Change(dataclasses.replace(seen, pause_us=(seen.pause_us or 0) + 1))

        at_once(lambda n: [store.clones.change(record.server_id, count) for _ in range(10)])
        assert store.clones.get(record.id).pause_us == 10 * THREADS

    # -- whole or not at all ------------------------------------------------------------------------------------------

    def test_what_raises_changes_nothing(self, store):
        made, (record,) = self.recorded(store)

        def raising(seen: Clone, _: Any) -> Change:
            raise KeyError("no")

        with pytest.raises(KeyError):
            store.clones.change(record.server_id, raising)
        with pytest.raises(NotOfThisGroup):
            store.groups.register(made.id, [clone(made), clone(made)], 2, joined)
        other = store.groups.begin(group())
        with pytest.raises(NotOfThisGroup):
            store.groups.register(other.id, [clone(other), record], 2, joined)
        assert [one.id for one in store.clones.matching({})] == [record.id]

    def test_orders_move_the_records_that_wait_for_them(self, store):
        made, records = self.recorded(store, 2)
        one, two = (
            store.groups.claim(made.id, each.server_id, claiming(attempt(each))).attempt
            for each in records
        )
        taken = freeze(made)
        store.freezes.take(taken, [one.id, two.id])

        def ordered(seen: Clone, waiting: Attempt) -> Clone | None:
            if waiting.id == two.id:
                return None
            return dataclasses.replace(seen, phase=Phase.ORDERED)

        orders = {one.id: b"\x00order one", two.id: b"order two"}
        kept = store.freezes.save_orders(taken, orders, ("ef" * 32, b"{policy}"), ordered)
        assert [(each.id, each.order) for each in kept] == [(one.id, b"\x00order one")]
        found, attempts = store.freezes.get(taken.id)
        assert found.policy_sha256 == "ef" * 32
        assert {each.id: each.order for each in attempts} == {
            one.id: b"\x00order one",
            two.id: None,
        }
        assert store.freezes.policy("ef" * 32) == b"{policy}"
        phases = {each.server_id: each.phase for each in store.clones.matching({})}
        assert phases == {one.server_id: Phase.ORDERED, two.server_id: Phase.CLAIMED}

    # -- lists --------------------------------------------------------------------------------------------------------

    def test_records_are_listed_by_what_is_asked_newest_first(self, store):
        made = store.groups.begin(group())
        times = [NOW + datetime.timedelta(seconds=n // 2) for n in range(6)]
        clones = [clone(made, created_at=at, project_id=f"p{n % 2}") for n, at in enumerate(times)]
        store.groups.register(made.id, clones, 6, joined)
        expected = [
            one.id for one in sorted(clones, key=lambda one: (one.created_at, one.id), reverse=True)
        ]
        assert [one.id for one in store.clones.matching({})] == expected
        paged: list[str] = []
        while page := store.clones.matching({"limit": 2, "marker": paged[-1] if paged else None}):
            paged += [one.id for one in page]
        assert paged == expected
        assert len(store.clones.matching({"project_id": "p0"})) == 3
        assert len(store.clones.matching({"server": clones[0].server_id})) == 1
        assert len(store.clones.matching({"server": made.source_server})) == 6
        assert (
            len(store.clones.matching({"source_server": made.source_server, "phase": "failed"}))
            == 0
        )
        assert store.clones.matching({"marker": str(uuid.uuid4())}) == []

    def test_silent_records_are_found_the_most_silent_first(self, store):
        times = [NOW, NOW - datetime.timedelta(hours=1), NOW + datetime.timedelta(hours=1)]
        made = store.groups.begin(group())
        clones = [clone(made, heard_at=at) for at in times]
        ended = clone(made, heard_at=NOW, phase=Phase.COMPLETE)
        store.groups.register(made.id, [*clones, ended], 4, joined)
        found = store.clones.unended(NOW + datetime.timedelta(microseconds=1))
        assert [one.id for one in found] == [clones[1].id, clones[0].id]

    # -- purge --------------------------------------------------------------------------------------------------------

    def test_purging_takes_what_ended_long_ago_and_nothing_else(self, store, database):
        old, later = NOW, NOW + datetime.timedelta(days=10)
        made, (gone,) = self.recorded(store, phase=Phase.COMPLETE)
        one = attempt(gone)
        store.groups.claim(made.id, gone.server_id, claiming(one))
        store.freezes.take(freeze(made), [one.id])
        store.clones.change(
            gone.server_id,
            lambda seen, a: Change(
                dataclasses.replace(seen, phase=Phase.COMPLETE, updated_at=old),
                ended=a,
                evidence=Evidence(one.id, "aa" * 32, {}),
            ),
        )
        _, (fresh,) = self.recorded(store, phase=Phase.FAILED, updated_at=later)
        _, (running,) = self.recorded(store)
        purged = purge(database, NOW + datetime.timedelta(days=1))
        assert (purged.clones, purged.groups) == (1, 1)
        assert {one.id for one in store.clones.matching({})} == {fresh.id, running.id}
        assert store.clones.evidence(gone.id) is None
        assert store.groups.get(made.id) is None
