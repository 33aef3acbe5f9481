"""Where transactions come from, and how often they are tried.

A transaction is repeated when the database was away, restarted, or chose it as the loser of a deadlock. So each
transaction reads what it decides by itself, and holds nothing from an earlier try.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy.exc
from oslo_db import exception as db_error
from oslo_db.sqlalchemy import enginefacade
from sqlalchemy import orm

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
CONSTRAINT_TRIES = 3
"""A lost race for a unique key: the second try sees the winner's row."""


# The last is what oslo.db has no name for: a server that is starting up or shutting down, sqlite's lock.
PASSING = (db_error.DBConnectionError, db_error.DBDeadlock, sqlalchemy.exc.OperationalError)
"""Errors of a database that would answer the same transaction later."""


class DatabaseAway(Exception):
    """The database did not answer within the limit."""


class Database:
    """One database."""

    def __init__(self, options: dict[str, Any], retry_limit_s: float) -> None:
        """:param options: oslo.db's, by name; ``connection`` must be among them
        :param retry_limit_s: how long a transaction is repeated
        """
        self._facade = enginefacade.transaction_context()
        self._facade.configure(**options)
        self._retry_limit_s = retry_limit_s

    @property
    def engine(self) -> Any:
        """SQLAlchemy's engine, for migrations."""
        return self._facade.writer.get_engine()

    def read(self, work: Callable[[orm.Session], R]) -> R:
        """Return what ``work`` returns, in a transaction that writes nothing."""
        return self._insist(self._facade.reader, work)

    def write(self, work: Callable[[orm.Session], R]) -> R:
        """Return what ``work`` returns, in a transaction that is committed whole or not at all."""
        return self._insist(self._facade.writer, work)

    def _insist(self, mode: Any, work: Callable[[orm.Session], R]) -> R:
        deadline, pause_s, lost = time.monotonic() + self._retry_limit_s, FIRST_PAUSE_S, 0
        while True:
            try:
                with mode.using(_Context()) as session:
                    return work(session)
            except db_error.DBDuplicateEntry:
                lost += 1
                if lost >= CONSTRAINT_TRIES:
                    raise
            except orm.exc.StaleDataError:
                continue  # somebody was quicker: what is decided now is decided anew
            except PASSING as error:
                if time.monotonic() + pause_s > deadline:
                    raise DatabaseAway(f"the database: {type(error).__name__}") from error
                LOG.warning("the database: %s; once more in %.2f s", type(error).__name__, pause_s)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


@enginefacade.transaction_context_provider
class _Context:
    """What enginefacade hangs a transaction on; one for each, so that threads share none."""


class _Repository(Protocol):
    database: Database


S = TypeVar("S", bound=_Repository)


def writing(method: Callable[Concatenate[S, orm.Session, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a repository's method, ``method(self, session, ...)``, one transaction that writes."""

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.database.write(lambda session: method(self, session, *args, **kwargs))

    return run


def reading(method: Callable[Concatenate[S, orm.Session, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a repository's method, ``method(self, session, ...)``, one transaction that reads."""

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.database.read(lambda session: method(self, session, *args, **kwargs))

    return run
