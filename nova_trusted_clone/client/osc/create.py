"""``openstack server clone``: ask for clones, wait for them, judge their evidence."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Iterable
from typing import Any

from osc_lib import exceptions as osc_errors
from osc_lib.cli import parseractions
from osc_lib.command import command

from nova_trusted_clone.client import display, errors, proof, waiting
from nova_trusted_clone.client.osc import base, columns, options
from nova_trusted_clone.client.rest import TrustedClones
from nova_trusted_clone.client.values import BROKEN, Clone, CloneRequest, Created, Nic
from nova_trusted_clone.core import terminal

# As much as a tenant's nonce needs: nobody finds a second request with it.
NONCE_BYTES = 16
COLUMNS = ("ID", "Name", "Server ID", "Phase", "Pause", "Evidence", "Reason")
HOLDS = "holds"
UNJUDGED = "not verified"


class CloneServer(command.Lister):
    """Clone a running server: each clone has its memory and disks as they were at one instant"""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._failure = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        base.server_argument(parser, "Server to clone")
        _what(parser)
        options.nics(parser)
        _waiting(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], Iterable[tuple[Any, ...]]]:
        """Return columns and rows; what failed is told by :meth:`run`, after they are printed."""
        with base.told():
            # Before anything is asked for: a mistyped file name must not cost a clone.
            grounds = options.grounds(parsed_args, os.environ) if parsed_args.wait else None
            source = base.server_id(self, parsed_args.server)
            clones = base.clones_of(self)
            created = self._create(clones, source, parsed_args)
            if not parsed_args.wait:
                return COLUMNS, [_row(clone, "") for clone in created.clones]
            try:
                rows = self._wait(clones, source, created, grounds, parsed_args.timeout)
            except KeyboardInterrupt:
                self._say(_go_on(source, created, "You stopped waiting"))
                raise
            except errors.ClientError:
                self._say(_go_on(source, created, "Waiting ended"))
                raise
        return COLUMNS, rows

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print the table, then fail if a clone did."""
        status = super().run(parsed_args)
        if self._failure:
            raise osc_errors.CommandError(self._failure)
        return status

    def _create(
        self, clones: TrustedClones, source: str, parsed_args: argparse.Namespace
    ) -> Created:
        request = _request(parsed_args, self._networks(parsed_args.nics))
        assert request.nonce is not None
        # Before anything is asked: whatever happens next, the tenant has it.
        self._say(f"Nonce, needed to verify the evidence: {request.nonce.hex()}")
        unknown = (
            "whether clones were made is not known: look with "
            f"'openstack server clone list {source}' before you try again"
        )
        try:
            return clones.create(source, request)
        except KeyboardInterrupt:
            self._say(unknown)
            raise
        except (errors.Unreachable, errors.Busy) as error:
            raise osc_errors.CommandError(f"{error}; {unknown}") from error

    def _networks(self, nics: list[dict[str, str]] | None) -> list[Nic] | None:
        if not nics:
            return None
        find = base.services(self).network
        return [
            Nic(
                network_id=_id(find.find_network, nic.get("net-id")),
                port_id=_id(find.find_port, nic.get("port-id")),
                fixed_ip=nic.get("v4-fixed-ip") or nic.get("v6-fixed-ip"),
            )
            for nic in nics
        ]

    def _wait(
        self,
        clones: TrustedClones,
        source: str,
        created: Created,
        grounds: proof.Grounds | None,
        timeout_s: int | None,
    ) -> list[tuple[Any, ...]]:
        with display.on(self.app.stderr) as watcher:
            waited = waiting.Wait(clones, source, created.clones, watcher).run(timeout_s)
            judge = Judge(clones, source, created.nonce, grounds, waiting.Patience(watcher))
            verdicts = [judge.verdict(clone) for clone in waited.clones]
        self._failure = _failure(waited, verdicts)
        return [_row(clone, said) for clone, said in zip(waited.clones, verdicts, strict=True)]

    def _say(self, text: str) -> None:
        self.app.stderr.write(text + "\n")
        self.app.stderr.flush()


class Judge:
    """Fetches the evidence of complete clones and judges it."""

    def __init__(
        self,
        clones: TrustedClones,
        source: str,
        nonce: bytes,
        grounds: proof.Grounds | None,
        patience: waiting.Patience,
    ) -> None:
        self._clones = clones
        self._source = source
        self._nonce = nonce
        self._grounds = grounds
        self._patience = patience

    def verdict(self, clone: Clone) -> str:
        """Return a few words: ``HOLDS``, ``UNJUDGED``, nothing, or what is wrong."""
        if not clone.complete:
            return ""
        if self._grounds is None:
            return UNJUDGED
        try:
            data = self._patience.insist(lambda: self._clones.evidence(clone.server_id, clone.id))
        except errors.ClientError as error:
            return f"missing: {error}"
        verdict = proof.judge(
            data, self._grounds, self._nonce, source_id=self._source, server_id=clone.server_id
        ).verdict
        if verdict.ok:
            return HOLDS
        return "DOES NOT HOLD: " + ", ".join(
            terminal.clean(check.code) for check in verdict.failures[:5]
        )


def _what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", metavar="<name>", help="Name of the clones, numbered if there are several"
    )
    parser.add_argument(
        "--count",
        metavar="<count>",
        type=options.positive,
        default=1,
        help="How many clones to make of one instant (default: 1)",
    )
    parser.add_argument(
        "--availability-zone", metavar="<zone>", help="Availability zone of the clones"
    )
    parser.add_argument("--host", metavar="<host>", help="Host of the clones (admin only)")
    parser.add_argument(
        "--vtpm",
        choices=("new", "derive"),
        help="Give the clones a new vTPM, or one that can open what the source's has sealed",
    )
    parser.add_argument(
        "--memory",
        choices=("lazy", "eager"),
        help="Let clones run while their memory arrives, or only when all of it has been verified",
    )
    parser.add_argument(
        "--nonce",
        metavar="<hex>",
        type=options.nonce,
        help="Value that the evidence has to carry, 16 to 128 hexadecimal digits (default: random)",
    )
    parser.add_argument(
        "--property",
        metavar="<key=value>",
        dest="properties",
        action=parseractions.KeyValueAction,
        default={},
        help="Property of the clones; repeat for several",
    )


def _waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help="Wait until all clones are complete and their servers ready, or have failed",
    )
    parser.add_argument(
        "--timeout",
        metavar="<seconds>",
        type=options.positive,
        help="Stop waiting after this time; the clones go on (default: wait until they end)",
    )
    options.proof_files(parser)


def _request(parsed_args: argparse.Namespace, networks: list[Nic] | None) -> CloneRequest:
    return CloneRequest(
        name=parsed_args.name,
        count=parsed_args.count,
        availability_zone=parsed_args.availability_zone,
        host=parsed_args.host,
        vtpm=parsed_args.vtpm,
        memory=parsed_args.memory,
        nonce=parsed_args.nonce or secrets.token_bytes(NONCE_BYTES),
        metadata=parsed_args.properties or {},
        networks=networks,
    )


def _id(find: Any, name_or_id: str | None) -> str | None:
    return str(find(name_or_id, ignore_missing=False).id) if name_or_id else None


def _row(clone: Clone, evidence: str) -> tuple[Any, ...]:
    pause = columns.PauseColumn(clone.pause_us)
    return (clone.id, clone.name, clone.server_id, clone.phase, pause, evidence, clone.reason)


def _failure(waited: waiting.Waited, verdicts: list[str]) -> str:
    """Return what the command fails with, or nothing."""
    count = len(waited.clones)
    open_ones = sum(not clone.ended for clone in waited.clones)
    building = sum(clone.complete and not clone.ready for clone in waited.clones)
    failed = sum(clone.ended and not clone.complete for clone in waited.clones)
    unproved = sum(said not in ("", HOLDS, UNJUDGED) for said in verdicts)
    told = [
        f"{number} of {count} clones {what}"
        for number, what in (
            (failed, "did not come to be"),
            (unproved, "have no evidence that holds: do not trust them"),
            (
                sum(clone.broken for clone in waited.clones),
                f"are complete with a server in {BROKEN}",
            ),
            (open_ones, "are not complete yet and go on"),
            (building, "are complete, but Nova still builds their servers"),
        )
        if number
    ]
    return "; ".join(told)


def _go_on(source: str, created: Created, why: str) -> str:
    ids = " ".join(clone.id for clone in created.clones)
    return (
        f"\n{why}; the clones go on. To look:  openstack server clone list {source}\n"
        f"To end them:  openstack server clone abort {source} {ids}"
    )
