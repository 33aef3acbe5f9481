"""The database's contract on real servers, and what the conductor does when they are restarted under it."""

import concurrent.futures
import dataclasses
import pathlib
import tempfile
import threading
import time

import pytest
import sqlalchemy.orm

from nova_trusted_clone.db import migration
from nova_trusted_clone.db.clones import Change
from nova_trusted_clone.db.engine import Database, DatabaseAway
from nova_trusted_clone.db.store import Store
from tests.functional import databases
from tests.unit.db import contract

pytestmark = pytest.mark.functional

SERVERS = {
    "mariadb": pytest.param(
        "mariadb", marks=pytest.mark.skipif(databases.MARIADB is None, reason="no mariadb-server")
    ),
    "postgresql": pytest.param(
        "postgresql", marks=pytest.mark.skipif(not databases.POSTGRES, reason="no postgresql")
    ),
}


@pytest.fixture(scope="module", params=SERVERS.values())
def server(request):
    # Not pytest's own: a unix socket's path has 107 bytes at most.
    with (
        tempfile.TemporaryDirectory(prefix="ntc-db-") as directory,
        getattr(databases, request.param)(pathlib.Path(directory)) as running,
    ):
        yield running


@pytest.fixture
def database(server):
    made = Database({"connection": server.url}, 30.0)
    with made.engine.begin() as connection:
        found = sqlalchemy.MetaData()
        found.reflect(connection)
        found.drop_all(connection)
    migration.sync(made.engine)
    yield made
    made.engine.dispose()


class TestContract(contract.Contract):
    """As on sqlite, whose writers come one after another."""

    def test_the_same_group_begun_between_two_looks_is_found(self, store, monkeypatch):
        """The request came twice, and the other one was taken up in the middle of this one."""
        made = contract.group()
        twin = dataclasses.replace(made, nonce=f"{7:032x}")
        look, looks = sqlalchemy.orm.Session.get, []

        def get(session, entity, key, **options):
            found = look(session, entity, key, **options)
            looks.append(entity)
            if len(looks) == 1:
                store.groups.begin(twin)
            return found

        monkeypatch.setattr(sqlalchemy.orm.Session, "get", get)
        assert store.groups.begin(made).nonce == twin.nonce


def test_a_killed_server_loses_no_change_and_makes_none_twice(server, database):
    """Changes go on while the server is killed and started again."""
    store = Store.of(database)
    made = store.groups.begin(contract.group())
    records = store.groups.register(
        made.id, [contract.clone(made) for _ in range(4)], 4, contract.joined
    )
    done, counted = threading.Event(), [0] * len(records)

    def count(number: int) -> None:
        while not done.is_set():
            wanted = counted[number] + 1

            def change(seen, _, wanted=wanted):
                # Decided from what stands there, so that a commit whose answer was lost is not made twice.
                return (
                    None
                    if (seen.pause_us or 0) >= wanted
                    else Change(dataclasses.replace(seen, pause_us=wanted))
                )

            store.clones.change(records[number].server_id, change)
            counted[number] = wanted

    with concurrent.futures.ThreadPoolExecutor() as pool:
        workers = [pool.submit(count, number) for number in range(len(records))]
        for _ in range(2):
            time.sleep(1)
            server.kill()
            time.sleep(1)
            server.start()
        before = list(counted)
        deadline = time.monotonic() + 30
        while any(now == then for now, then in zip(counted, before, strict=True)):
            assert time.monotonic() < deadline, "it does not go on"
            time.sleep(0.1)
        done.set()
        for worker in workers:
            worker.result(timeout=60)
    assert [store.clones.get(one.id).pause_us for one in records] == counted


def test_a_server_that_is_away_for_good_is_told_within_the_limit(server, database):
    store = Store.of(Database({"connection": server.url}, 2.0))
    made = store.groups.begin(contract.group())
    server.kill()
    try:
        began = time.monotonic()
        with pytest.raises(DatabaseAway):
            store.groups.get(made.id)
        assert time.monotonic() - began < 10
    finally:
        server.start()
    assert store.groups.get(made.id) == made
