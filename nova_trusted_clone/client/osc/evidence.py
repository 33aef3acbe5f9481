"""``openstack server clone evidence save`` and ``verify``; the second needs no cloud."""

from __future__ import annotations

import argparse
import os
import pathlib
import uuid
from typing import Any

from osc_lib import exceptions as osc_errors
from osc_lib.command import command

from nova_trusted_clone.client import proof
from nova_trusted_clone.client.osc import base, options
from nova_trusted_clone.core.terminal import clean

# The evidence lies here when no name is given.
FILE_NAME = "trusted-clone-{}.json"


class SaveEvidence(command.Command):
    """Save the evidence of a complete clone, not judged: verify it afterwards"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        base.server_argument(parser, "Server that is the source or the clone")
        base.clone_argument(parser)
        parser.add_argument(
            "--file",
            metavar="<file>",
            type=pathlib.Path,
            help=f"Where to save it (default: {FILE_NAME.format('CLONE')}); never overwritten",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Fetch and write."""
        with base.told():
            server = base.server_id(self, parsed_args.server)
            clones = base.clones_of(self)
            clone = base.chosen(clones, server, parsed_args.clone)
            file = parsed_args.file or pathlib.Path(FILE_NAME.format(clone.id))
            proof.write(file, clones.evidence(server, clone.id))
        self.app.stdout.write(f"{file}\n")


class VerifyEvidence(command.ShowOne):
    """Verify evidence offline: exit status 0 means that every check holds"""

    auth_required = False

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._judgement: proof.Judgement | None = None

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="<file>", type=pathlib.Path, help="The evidence")
        options.proof_files(parser)
        parser.add_argument(
            "--nonce",
            metavar="<hex>",
            type=options.nonce,
            required=True,
            help="The nonce that went with the request",
        )
        for option, what in (("--source", "was cloned"), ("--server", "is the clone")):
            parser.add_argument(
                option,
                metavar="<server-id>",
                type=uuid.UUID,
                help=f"ID of the server that {what}, so that evidence of another is told",
            )
        parser.add_argument(
            "--long", action="store_true", help="Show every check, not only those that failed"
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Judge."""
        with base.told():
            grounds = options.grounds(parsed_args, os.environ)
            if grounds is None:
                raise osc_errors.CommandError("--ca and --policy are needed to verify")
            judgement = proof.judge(
                proof.read(parsed_args.file),
                grounds,
                parsed_args.nonce,
                source_id=_text(parsed_args.source),
                server_id=_text(parsed_args.server),
            )
        self._judgement = judgement
        fields = _fields(judgement, parsed_args.long)
        return tuple(fields), tuple(fields.values())

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print, then fail if it does not hold."""
        status = super().run(parsed_args)
        if self._judgement is None or not self._judgement.verdict.ok:
            raise osc_errors.CommandError("THE EVIDENCE DOES NOT HOLD")
        return status


def _text(value: uuid.UUID | None) -> str | None:
    return None if value is None else str(value)


def _fields(judgement: proof.Judgement, long: bool) -> dict[str, Any]:
    verdict = judgement.verdict
    fields: dict[str, Any] = {
        "holds": verdict.ok,
        "checks": len(verdict.checks),
        "failed": "\n".join(clean(str(check)) for check in verdict.failures),
    }
    if long:
        fields["every_check"] = "\n".join(
            f"{'ok    ' if check.ok else 'FAILED'} {clean(check.code)}" for check in verdict.checks
        )
    return fields | dict(sorted(_cleaned(judgement.summary or {}).items()))


def _cleaned(value: Any) -> Any:
    """Return the summary with texts that cannot command a terminal."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(item) for key, item in value.items()}
    return value
