"""The database's contract on sqlite, and what the engine does when a database is away."""

import pathlib

import pytest
from oslo_db import exception as db_error

from nova_trusted_clone.db import engine, migration
from nova_trusted_clone.db.engine import Database, DatabaseAway
from tests.unit.db.contract import Contract


@pytest.fixture
def database(tmp_path: pathlib.Path) -> Database:
    made = Database({"connection": f"sqlite:///{tmp_path / 'records.sqlite'}"}, 10.0)
    migration.sync(made.engine)
    return made


class TestSqlite(Contract):
    """On a file."""


def test_a_new_database_has_no_version(tmp_path):
    empty = Database({"connection": f"sqlite:///{tmp_path / 'empty.sqlite'}"}, 0)
    assert migration.version(empty.engine) is None


@pytest.mark.parametrize("error", [db_error.DBConnectionError, db_error.DBDeadlock])
def test_a_transaction_is_repeated_until_the_database_is_back(database, error):
    tries = []

    def work(session):
        tries.append(1)
        if len(tries) < 3:
            raise error
        return "done"

    assert (database.write(work), len(tries)) == ("done", 3)


def test_a_database_that_stays_away_is_told(database, monkeypatch):
    monkeypatch.setattr(database, "_retry_limit_s", 0.2)

    def work(session):
        raise db_error.DBConnectionError

    with pytest.raises(DatabaseAway, match="DBConnectionError"):
        database.read(work)


def test_another_error_is_not_repeated(database):
    tries = []

    def work(session):
        tries.append(1)
        raise db_error.DBDataError

    with pytest.raises(db_error.DBDataError):
        database.write(work)
    assert len(tries) == 1


def test_a_unique_key_that_is_always_lost_is_an_error(database, monkeypatch):
    tries = []

    def work(session):
        tries.append(1)
        raise db_error.DBDuplicateEntry

    with pytest.raises(db_error.DBDuplicateEntry):
        database.write(work)
    assert len(tries) == engine.CONSTRAINT_TRIES
