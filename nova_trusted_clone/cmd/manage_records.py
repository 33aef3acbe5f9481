"""``manage db``, ``manage clone`` and ``manage self-test``: the control plane's records, for operators.

They read nova.conf: where nova's own commands look for it, or what ``--config-file`` names.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from nova_trusted_clone.cmd.manage_options import Group

REFUSED = 1


def add(groups: Any) -> None:
    """Add the commands."""
    _add_database(groups)
    _add_clones(groups)
    check = groups.add_parser(
        "self-test", help="whether everything that the conductor needs is there and answers"
    )
    check.set_defaults(run=_self_test)
    check.add_argument(
        "--host", action="append", default=[], help="a compute to ask, by nova's name; repeatable"
    )
    check.add_argument(
        "--offline", action="store_true", help="ask nobody: files and database alone"
    )


def _add_database(groups: Any) -> None:
    database = Group(groups, "db", "the database of clone records")
    sync = database.command("sync", _sync, "bring the schema to this release's, or to a version")
    sync.add_argument("version", nargs="?", default="head", help="a version (default: the newest)")
    database.command("version", _version, "print the schema's version")
    purge = database.command(
        "purge", _purge, "remove records that ended long ago, with their evidence"
    )
    purge.add_argument(
        "--before", type=int, required=True, metavar="DAYS", help="ended more than so many days ago"
    )


def _add_clones(groups: Any) -> None:
    clones = Group(groups, "clone", "clones, whoever's they are")
    listed = clones.command("list", _list, "list clone records, newest first")
    listed.add_argument("--server", help="of this source or clone")
    listed.add_argument("--project", help="of this project")
    listed.add_argument("--phase", help="in this phase")
    listed.add_argument("--limit", type=int, default=100, help="at most so many (default: 100)")
    listed.add_argument("--json", action="store_true", help="print whole records as JSON")
    ended = clones.command("abort", _abort, "end a clone that is not complete")
    ended.add_argument("clone", help="the record's UUID")
    ended.add_argument("--reason", default="ended by an operator", help="why, for its record")


def _told(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Make the errors of a database and of the conductor into a line and an exit code, as ``manage`` does with its
    own.
    """

    @functools.wraps(command)
    def run(options: argparse.Namespace) -> int:
        from alembic.util import CommandError
        from oslo_db import exception as db_error

        from nova_trusted_clone.db.engine import DatabaseAway
        from nova_trusted_clone.rpc.errors import CloneError

        try:
            return command(options)
        except CloneError as error:
            print(f"refused: {error} [{error.code}]", file=sys.stderr)
            return REFUSED
        except (DatabaseAway, db_error.DBError) as error:
            raise ValueError(f"the database: {str(error).splitlines()[0]}") from error
        except CommandError as error:
            raise ValueError(str(error)) from error

    return run


@_told
def _sync(options: argparse.Namespace) -> int:
    from nova_trusted_clone.db import migration

    engine = _database(options).engine
    migration.sync(engine, options.version)
    print(migration.version(engine))
    return 0


@_told
def _version(options: argparse.Namespace) -> int:
    from nova_trusted_clone.db import migration

    print(migration.version(_database(options).engine) or "no schema yet: run db sync")
    return 0


@_told
def _purge(options: argparse.Namespace) -> int:
    from nova_trusted_clone.db.purge import purge

    if options.before < 0:
        raise ValueError("--before: expected 0 days or more")
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    purged = purge(_database(options), now - datetime.timedelta(days=options.before))
    print(f"removed {purged.clones} clones, {purged.groups} requests, {purged.policies} policies")
    return 0


@_told
def _list(options: argparse.Namespace) -> int:
    from nova_trusted_clone.db.clones import Clones

    filters = {
        "server": options.server,
        "project_id": options.project,
        "phase": options.phase,
        "limit": options.limit,
    }
    store = Clones(_database(options))
    found = store.matching(filters)
    if options.json:
        attempts = store.attempts([clone.server_id for clone in found])
        views = [clone.to_view(attempts.get(clone.server_id, ())) for clone in found]
        print(json.dumps(views, indent=1, sort_keys=True))
        return 0
    for clone in found:
        why = f"  {clone.reason}" if clone.reason else ""
        print(
            f"{clone.id}  {clone.phase:<11}  {clone.source_id} -> {clone.server_id}  {clone.source_host} -> "
            f"{clone.host or '-'}{why}"
        )
    return 0


@_told
def _abort(options: argparse.Namespace) -> int:
    from nova_trusted_clone.rpc.conductor import ConductorAPI

    ConductorAPI().abort(_context(options), options.clone, options.reason)
    return 0


@_told
def _self_test(options: argparse.Namespace) -> int:
    from nova_trusted_clone.conductor import selftest
    from nova_trusted_clone.rpc.compute import ComputeAPI
    from nova_trusted_clone.rpc.conductor import ConductorAPI

    conf = _configure(options)
    group = conf.trusted_clone_conductor
    findings = [
        selftest.check_signer(group, int(time.time())),
        selftest.check_trust(group),
        _schema(options),
    ]
    if not options.offline:
        context = _context(options)
        findings.append(selftest.check_conductor(context, ConductorAPI()))
        findings += selftest.check_computes(context, ComputeAPI(), options.host)
    for finding in findings:
        print(f"{finding.grade.value:<7} {finding.text}")
    return 1 if any(finding.grade is selftest.Grade.BAD for finding in findings) else 0


def _schema(options: argparse.Namespace) -> Any:
    from oslo_db import exception as db_error

    from nova_trusted_clone.conductor.selftest import Finding, Grade
    from nova_trusted_clone.db import migration

    try:
        found = migration.version(_database(options).engine)
    except (ValueError, db_error.DBError) as error:
        return Finding(Grade.BAD, f"the database: {error}")
    if found == migration.newest():
        return Finding(Grade.GOOD, f"the schema is {found}")
    return Finding(Grade.BAD, f"the schema is {found or 'none'}: run db sync")


def _configure(options: argparse.Namespace) -> Any:
    """Return nova's options, read from nova.conf, with ours."""
    import nova.conf
    from oslo_config import cfg

    from nova_trusted_clone.conf import conductor

    conf = nova.conf.CONF
    conductor.register(conf)
    files = options.config_file or cfg.find_config_files(project="nova")
    conf([], project="nova", default_config_files=[str(file) for file in files])
    return conf


def _database(options: argparse.Namespace) -> Any:
    from nova_trusted_clone.db.engine import Database

    conf = _configure(options)
    if not conf.trusted_clone_database.connection:
        raise ValueError("[trusted_clone_database]/connection is not set in nova.conf")
    return Database(
        dict(conf.trusted_clone_database.items()), conf.trusted_clone_conductor.retry_limit_s
    )


def _context(options: argparse.Namespace) -> Any:
    """Return an operator's context, with nova's RPC ready to carry it."""
    from nova import config, rpc
    from nova import context as nova_context

    if rpc.TRANSPORT is None:
        config.set_lib_defaults()
        rpc.init(_configure(options))
    print("asking by way of the message broker…", file=sys.stderr)
    return nova_context.get_admin_context()
