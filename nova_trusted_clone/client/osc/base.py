"""What the commands share: finding servers and clones, and telling errors the way ``openstack`` does."""

from __future__ import annotations

import argparse
import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from openstack import exceptions as sdk_errors
from osc_lib import exceptions as osc_errors
from osc_lib.command import command

from nova_trusted_clone.client import errors
from nova_trusted_clone.client.rest import TrustedClones
from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.core.errors import CoreError

_HINTS: dict[type[errors.ClientError], str] = {
    errors.Unauthorized: "log in again",
    errors.Forbidden: "ask the cloud's operator: its policy or your quota does not allow it",
    errors.Unreachable: "check the network and the cloud's state, then try again",
    errors.Busy: "try again later",
}


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what can go wrong into the one error that ``openstack`` prints, exit status 1."""
    try:
        yield
    except errors.ClientError as error:
        hint = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), "")
        raise osc_errors.CommandError(f"{error}; {hint}" if hint else str(error)) from error
    except sdk_errors.DuplicateResource as error:
        raise osc_errors.CommandError(f"{error}; give its ID instead of its name") from error
    except (sdk_errors.SDKException, CoreError, OSError) as error:
        raise osc_errors.CommandError(str(error)) from error


def server_argument(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add ``<server>``."""
    parser.add_argument("server", metavar="<server>", help=f"{help_text} (name or ID)")


def clone_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``[<clone>]``."""
    parser.add_argument(
        "clone",
        metavar="<clone>",
        nargs="?",
        help="Clone of the server (clone's ID, its server's ID or name); not needed if the server "
        "is a clone itself",
    )


def services(owner: command.Command) -> Any:
    """Return what has an attribute for each service: ``openstack`` sets them when it starts."""
    return owner.app.client_manager


def clones_of(owner: command.Command) -> TrustedClones:
    """Return the API of the cloud and project that ``openstack`` was started for."""
    return TrustedClones(services(owner).compute)


def server_id(owner: command.Command, name_or_id: str) -> str:
    """Return the ID of a server that is given by name or ID."""
    found = services(owner).compute.find_server(name_or_id, ignore_missing=False)
    return str(uuid.UUID(found.id))


def chosen(clones: TrustedClones, server: str, asked: str | None) -> Clone:
    """Return the record that is meant: the one asked for, or the one that made the server.

    :raises osc_errors.CommandError: if there is none, or more than one
    """
    known = clones.list(server)
    if asked is None:
        fitting = [clone for clone in known if clone.server_id == server]
        missing = f"server {server} is no clone itself: say which of its clones is meant"
    else:
        fitting = [c for c in known if asked in (c.id, c.server_id)] or [
            clone for clone in known if clone.name == asked and clone.server_id != server
        ]
        missing = f"server {server} has no clone {asked}"
    if len(fitting) > 1:
        ids = ", ".join(clone.id for clone in fitting[:10])
        raise osc_errors.CommandError(f"several clones are meant, give the ID of one: {ids}")
    if not fitting:
        raise osc_errors.CommandError(missing)
    return fitting[0]
