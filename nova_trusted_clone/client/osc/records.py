"""``openstack server clone list``, ``show`` and ``abort``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from osc_lib import exceptions as osc_errors
from osc_lib.command import command

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.osc import base, columns


class ListClones(command.Lister):
    """List the clones of a server, and what it was cloned from itself"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        base.server_argument(parser, "Server that is the source or a clone")
        parser.add_argument("--phase", metavar="<phase>", help="Only clones in this phase")
        parser.add_argument("--long", action="store_true", help="List more fields")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], Iterable[tuple[Any, ...]]]:
        """Return columns and rows."""
        with base.told():
            server = base.server_id(self, parsed_args.server)
            known = base.clones_of(self).list(server)
        names = columns.LISTED + (columns.LONG if parsed_args.long else ())
        wanted = [c for c in known if parsed_args.phase in (None, c.phase)]
        return names, [columns.listed(clone, parsed_args.long) for clone in wanted]


class ShowClone(command.ShowOne):
    """Show one clone of a server: phase, progress, pause, failed attempts"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        base.server_argument(parser, "Server that is the source or the clone")
        base.clone_argument(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Return fields and values."""
        with base.told():
            server = base.server_id(self, parsed_args.server)
            clones = base.clones_of(self)
            found = base.chosen(clones, server, parsed_args.clone)
            fields = columns.shown(clones.show(server, found.id))
        return tuple(fields), tuple(fields.values())


class AbortClone(command.Command):
    """Abort clones that are not complete; their servers end in ERROR, the source runs on"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        base.server_argument(parser, "Server that is the source or the clone")
        parser.add_argument(
            "clones",
            metavar="<clone>",
            nargs="*",
            help="Clone(s) of the server (clone's ID, its server's ID or name); not needed if the "
            "server is a clone itself",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Abort each alone; what fails does not keep the others."""
        with base.told():
            server = base.server_id(self, parsed_args.server)
        asked = parsed_args.clones or [None]
        failed = sum(not self._abort(server, name) for name in asked)
        if failed:
            raise osc_errors.CommandError(f"{failed} of {len(asked)} clones were not aborted")

    def _abort(self, server: str, asked: str | None) -> bool:
        clones = base.clones_of(self)
        try:
            clones.abort(server, base.chosen(clones, server, asked).id)
        except (errors.ClientError, osc_errors.CommandError) as error:
            self.log.error("%s: %s", asked or server, error)
            return False
        return True
