"""nova-trusted-clone-status: whether this release can run on what is there (``upgrade check``).

Exit codes are those of every OpenStack status command: 0 all is well, 1 something to look at, 2 it would not work.
"""

from __future__ import annotations

import sys

import nova.conf
from oslo_config import cfg
from oslo_db import exception as db_error
from oslo_upgradecheck import upgradecheck
from oslo_upgradecheck.upgradecheck import Code, Result

from nova_trusted_clone.conductor.selftest import Finding, Grade, check_signer, check_trust
from nova_trusted_clone.conf import conductor as options
from nova_trusted_clone.db import migration
from nova_trusted_clone.db.engine import Database

CONF = nova.conf.CONF
_CODES = {Grade.GOOD: Code.SUCCESS, Grade.DOUBTFUL: Code.WARNING, Grade.BAD: Code.FAILURE}


class Checks(upgradecheck.UpgradeCommands):  # type: ignore[misc]
    """Every check; none changes anything."""

    def _check_database(self) -> Result:
        group = CONF.trusted_clone_database
        if not group.connection:
            return Result(Code.FAILURE, "[trusted_clone_database]/connection is not set.")
        try:
            found = migration.version(Database(dict(group.items()), 0).engine)
        except db_error.DBError as error:
            return Result(Code.FAILURE, f"The database cannot be reached: {error}")
        if found == migration.newest():
            return Result(Code.SUCCESS)
        return Result(
            Code.FAILURE,
            f"The schema is {found or 'none'}, this release needs {migration.newest()}: "
            "run nova-trusted-clone-manage db sync.",
        )

    def _check_signer(self) -> Result:
        return _result(check_signer(CONF.trusted_clone_conductor))

    def _check_trust(self) -> Result:
        return _result(check_trust(CONF.trusted_clone_conductor))

    _upgrade_checks = (
        ("Schema of the clone records", _check_database),
        ("Signing key and register of hosts", _check_signer),
        ("Trust anchors and policy", _check_trust),
    )


def _result(finding: Finding) -> Result:
    return Result(_CODES[finding.grade], finding.text)


def main() -> int:
    """Run the command line."""
    options.register(CONF)
    return int(
        upgradecheck.main(
            CONF,
            project="nova",
            upgrade_command=Checks(),
            default_config_files=cfg.find_config_files(project="nova"),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
