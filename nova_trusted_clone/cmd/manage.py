"""nova-trusted-clone-manage: the operator's and the tenant's tool.

Each group of commands stands in a module of its own and imports what it needs when it runs, so that
``evidence verify`` works where there is no TPM library. Exit codes: 0 done, 1 refused (not trusted,
not allowed), 2 the input cannot be used.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from nova_trusted_clone.clone.authority import AuthorityError
from nova_trusted_clone.clone.enrolment import EnrolmentError
from nova_trusted_clone.clone.identity import IdentityError
from nova_trusted_clone.clone.registry import RegistryError
from nova_trusted_clone.cmd import (
    manage_authority,
    manage_enrolment,
    manage_evidence,
    manage_host,
    manage_records,
    manage_vtpm,
)
from nova_trusted_clone.core.errors import CoreError, Refused
from nova_trusted_clone.tpm.base import TpmError

DONE, REFUSED, BAD_INPUT = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = argparse.ArgumentParser(prog="nova-trusted-clone-manage", description=__doc__)
    top.add_argument(
        "--config-file",
        action="append",
        type=pathlib.Path,
        help="nova.conf, for db, clone and self-test; repeatable (default: where nova looks for it)",
    )
    groups = top.add_subparsers(required=True, metavar="GROUP")
    manage_authority.add(groups)
    manage_enrolment.add(groups)
    manage_host.add(groups)
    manage_evidence.add(groups)
    manage_records.add(groups)
    manage_vtpm.add(groups)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every expected error becomes one line and an exit code."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except Refused as error:
        for check in error.verdict.failures:
            print(f"refused: {check}", file=sys.stderr)
        return REFUSED
    except (EnrolmentError, RegistryError, TpmError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return REFUSED
    except (CoreError, AuthorityError, IdentityError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
