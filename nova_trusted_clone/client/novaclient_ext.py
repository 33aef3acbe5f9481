"""python-novaclient's extension: ``nova clone …``, and ``client.trusted_clones`` in Python.

novaclient finds it by the entry point ``novaclient.extension``, whose name becomes the attribute:

.. code-block:: python

    from novaclient import client
    nova = client.Client("2.1", session=session, extensions=client.discover_extensions("2.1"))
    created = nova.trusted_clones.create(server, CloneRequest(name="web", count=2))

novaclient takes no new feature, so this is the API and little more: ``openstack server clone`` waits,
shows progress and verifies.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from keystoneauth1 import adapter
from novaclient import base, utils
from novaclient import exceptions as nova_errors

from nova_trusted_clone.client import display, errors, proof
from nova_trusted_clone.client.rest import TrustedClones
from nova_trusted_clone.client.values import Clone, CloneRequest, Created

_ERRORS = {
    kind.http_status: kind
    for kind in (
        nova_errors.BadRequest,
        nova_errors.Unauthorized,
        nova_errors.Forbidden,
        nova_errors.NotFound,
        nova_errors.Conflict,
        nova_errors.OverLimit,
    )
}
_FIELDS = ["Id", "Name", "Server_Id", "Source_Id", "Phase", "Reason"]


class TrustedCloneManager(base.Manager):
    """The requests of :class:`TrustedClones`, with novaclient's servers and errors."""

    def create(self, server: Any, request: CloneRequest) -> Created:
        """Ask for clones of a running server."""
        with _as_novaclient():
            return self._rest().create(base.getid(server), request)

    def list(self, server: Any) -> tuple[Clone, ...]:
        """Return the records in which a server is the source or the clone."""
        with _as_novaclient():
            return self._rest().list(base.getid(server))

    def get(self, server: Any, clone: Any) -> Clone:
        """Return one record."""
        with _as_novaclient():
            return self._rest().show(base.getid(server), base.getid(clone))

    def evidence(self, server: Any, clone: Any) -> bytes:
        """Return the evidence of a complete clone, not judged."""
        with _as_novaclient():
            return self._rest().evidence(base.getid(server), base.getid(clone))

    def abort(self, server: Any, clone: Any) -> None:
        """End a clone that is not complete."""
        with _as_novaclient():
            self._rest().abort(base.getid(server), base.getid(clone))

    def _rest(self) -> TrustedClones:
        """The API over novaclient's session: its own adapter reads bodies without a limit."""
        own = self.client
        return TrustedClones(
            adapter.Adapter(
                session=own.session,
                auth=own.auth,
                service_type=own.service_type,
                service_name=own.service_name,
                interface=own.interface,
                region_name=own.region_name,
                endpoint_override=own.endpoint_override,
                user_agent=own.user_agent,
            )
        )


@contextlib.contextmanager
def _as_novaclient() -> Iterator[None]:
    """What the API refuses comes as novaclient's own error for the status."""
    try:
        yield
    except errors.Refused as error:
        kind = _ERRORS.get(error.status, nova_errors.ClientException)
        raise kind(error.status, error.said, request_id=error.request_id) from error


@utils.arg("server", metavar="<server>", help="Name or ID of the server to clone.")
@utils.arg("--name", metavar="<name>", help="Name of the clones.")
@utils.arg("--count", metavar="<count>", type=int, default=1, help="How many clones to make.")
@utils.arg("--availability-zone", metavar="<zone>", help="Availability zone of the clones.")
@utils.arg("--vtpm", choices=["new", "derive"], help="The clones' vTPM.")
@utils.arg("--memory", choices=["lazy", "eager"], help="When clones run.")
@utils.arg("--nonce", metavar="<hex>", type=bytes.fromhex, help="Value for the evidence to carry.")
def do_clone(cs: Any, args: argparse.Namespace) -> None:
    """Clone a running server. 'openstack server clone --wait' also shows progress and verifies."""
    nonce = args.nonce or secrets.token_bytes(16)
    print(f"Nonce, needed to verify the evidence: {nonce.hex()}")
    request = CloneRequest(
        name=args.name,
        count=args.count,
        availability_zone=args.availability_zone,
        vtpm=args.vtpm,
        memory=args.memory,
        nonce=nonce,
    )
    server = utils.find_resource(cs.servers, args.server)
    utils.print_list(cs.trusted_clones.create(server, request).clones, _FIELDS)


@utils.arg("server", metavar="<server>", help="Name or ID of the source or of a clone.")
def do_clone_list(cs: Any, args: argparse.Namespace) -> None:
    """List the clones of a server."""
    server = utils.find_resource(cs.servers, args.server)
    utils.print_list(cs.trusted_clones.list(server), _FIELDS)


@utils.arg("server", metavar="<server>", help="Name or ID of the source or of the clone.")
@utils.arg("clone", metavar="<clone>", help="ID of the clone.")
def do_clone_show(cs: Any, args: argparse.Namespace) -> None:
    """Show a clone of a server."""
    server = utils.find_resource(cs.servers, args.server)
    clone = cs.trusted_clones.get(server, args.clone)
    part = display.percent(clone)
    utils.print_dict(
        {field.lower(): getattr(clone, field.lower()) for field in _FIELDS}
        | {"progress": "" if part is None else f"{part} %", "pause_us": clone.pause_us}
    )


@utils.arg("server", metavar="<server>", help="Name or ID of the source or of the clone.")
@utils.arg("clone", metavar="<clone>", help="ID of the clone.")
def do_clone_abort(cs: Any, args: argparse.Namespace) -> None:
    """Abort a clone that is not complete."""
    cs.trusted_clones.abort(utils.find_resource(cs.servers, args.server), args.clone)


@utils.arg("server", metavar="<server>", help="Name or ID of the source or of the clone.")
@utils.arg("clone", metavar="<clone>", help="ID of the clone.")
@utils.arg("file", metavar="<file>", type=pathlib.Path, help="Where to save it.")
def do_clone_evidence(cs: Any, args: argparse.Namespace) -> None:
    """Save a clone's evidence. 'openstack server clone evidence verify' judges it."""
    server = utils.find_resource(cs.servers, args.server)
    proof.write(args.file, cs.trusted_clones.evidence(server, args.clone))
