"""The API's requests, over a keystoneauth adapter: openstacksdk's ``connection.compute`` is one.

A token that has expired is renewed by keystoneauth, where the credentials allow it. Nothing is tried
again here: ``waiting`` does that for what only reads. A request for clones is never repeated by
itself, since the first may have had its effect.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import requests
from keystoneauth1 import adapter as ksa_adapter
from keystoneauth1 import exceptions as ksa_errors

from nova_trusted_clone.client import errors, replies
from nova_trusted_clone.client.values import Clone, CloneRequest, Created
from nova_trusted_clone.core import terminal
from nova_trusted_clone.core.attest import strict_json
from nova_trusted_clone.core.errors import MalformedInput

# An API that says nothing for so long is as good as down. A limit that the user has set wins.
TIMEOUT_S = 60
MAX_ERROR_BYTES = 64 * 1024
# A source with more records than these pages hold is beyond what anyone reads.
MOST_PAGES = 100
MOST_RETRY_AFTER_S = 300
_CHUNK_BYTES = 64 * 1024
_Value = TypeVar("_Value")


class TrustedClones:
    """Trusted clones of one cloud, for the adapter's project."""

    def __init__(self, adapter: ksa_adapter.Adapter) -> None:
        self._adapter = adapter

    def create(self, server_id: str, request: CloneRequest) -> Created:
        """Ask for clones of a running server; they come to be after this returns.

        :raises errors.ClientError: if not; ``Unreachable`` leaves open whether they will
        """
        path = f"/servers/{_checked(server_id)}/action"
        try:
            reply = self._read("POST", path, replies.MAX_LIST_BYTES, json=request.to_json())
        except errors.BadRequest as error:
            raise _unsupported(error) from error
        made = _parsed(replies.created, reply)
        if request.nonce is not None and made.nonce != request.nonce:
            raise errors.BadReply(
                f"reply.trusted_clones.nonce: found {made.nonce.hex()}, expected the request's own "
                f"{request.nonce.hex()}: evidence of these clones would not verify"
            )
        return made

    def list(self, server_id: str, wanted: Collection[str] = ()) -> tuple[Clone, ...]:
        """Return the records in which a server is the source or the clone, oldest first.

        :param wanted: records to read no further than, once all of them were met; all unless given
        """
        found: dict[str, Clone] = {}
        marker: str | None = None
        for _ in range(MOST_PAGES):
            query = {"marker": marker} if marker else {}
            page, more = _parsed(replies.records, self._page(_path(server_id), query))
            fresh = {clone.id: clone for clone in page if clone.id not in found}
            found |= fresh
            if not more or not fresh or (wanted and found.keys() >= set(wanted)):
                break
            marker = page[-1].id
        return tuple(reversed(found.values()))  # the API's order is newest first

    def page(
        self, *, limit: int, marker: str | None = None, all_projects: bool = False
    ) -> tuple[tuple[Clone, ...], bool]:
        """Return records of the project's clones, newest first, and whether there may be more.

        :param marker: the id of the last record of the page before
        :param all_projects: those of every project, for administrators
        """
        query = {"limit": str(limit)}
        query |= {"marker": _checked(marker)} if marker else {}
        query |= {"all_projects": "true"} if all_projects else {}
        return _parsed(replies.records, self._page("/trusted-clones", query))

    def _page(self, path: str, query: dict[str, str]) -> bytes:
        try:
            return self._read("GET", path, replies.MAX_LIST_BYTES, params=query)
        except errors.NotFound as error:
            # Of the server or of the whole API: nova answers both alike.
            if self.supported():
                raise
            raise errors.Unsupported("this cloud has no trusted clones") from error

    def show(self, server_id: str, clone_id: str) -> Clone:
        """Return one record of a server that is its source or the clone."""
        reply = self._read("GET", _path(server_id, clone_id), replies.MAX_RECORD_BYTES)
        clone = _parsed(replies.record, reply)
        if clone.id != _checked(clone_id):
            raise errors.BadReply(
                f"reply.trusted_clone.id: found {clone.id}, expected {clone_id}, which was asked for"
            )
        return clone

    def server_status(self, server_id: str) -> str:
        """Return Nova's status of a server, such as ``ACTIVE``."""
        reply = self._read("GET", f"/servers/{_checked(server_id)}", replies.MAX_RECORD_BYTES)
        return _parsed(replies.server_status, reply)

    def evidence(self, server_id: str, clone_id: str) -> bytes:
        """Return the evidence of a complete clone as the bytes of a file: not judged."""
        path = f"{_path(server_id, clone_id)}/evidence"
        return _parsed(replies.evidence, self._read("GET", path, replies.MAX_EVIDENCE_REPLY_BYTES))

    def abort(self, server_id: str, clone_id: str) -> None:
        """End a clone that is not complete, and its server."""
        self._read("DELETE", _path(server_id, clone_id), MAX_ERROR_BYTES)

    def supported(self) -> bool:
        """Return whether the cloud has trusted clones."""
        try:
            self._read("GET", "/trusted-clone", replies.MAX_LIST_BYTES)
        except errors.NotFound:
            return False
        return True

    def _read(self, method: str, path: str, limit: int, **more: Any) -> bytes:
        with _translated():
            reply = self._adapter.request(
                path,
                method,
                raise_exc=False,
                headers={"Accept": "application/json"},
                stream=True,
                timeout=self._adapter.session.timeout or TIMEOUT_S,
                **more,
            )
            with contextlib.closing(reply):
                if reply.status_code >= 400:
                    raise _refusal(reply, _body(reply, MAX_ERROR_BYTES, cut=True))
                return _body(reply, limit)


def _path(server_id: str, clone_id: str | None = None) -> str:
    path = f"/servers/{_checked(server_id)}/trusted-clones"
    return f"{path}/{_checked(clone_id)}" if clone_id is not None else path


def _checked(identifier: str) -> str:
    """Return the UUID in its one form: nothing else gets into a path."""
    return str(uuid.UUID(identifier))


def _body(reply: requests.Response, limit: int, *, cut: bool = False) -> bytes:
    """Return the reply's body, at most ``limit`` bytes of it."""
    body = bytearray()
    for chunk in reply.iter_content(_CHUNK_BYTES):
        body += chunk
        if len(body) > limit:
            if cut:
                break
            raise errors.BadReply(f"the reply has more than {limit} bytes")
    return bytes(body[:limit])


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ksa_errors.HttpError as error:  # of Keystone, when the token is renewed
        status = int(error.http_status or 500)
        raise errors.refusal(
            status, terminal.clean(f"Keystone: {error.message}")[: replies.MOST_TEXT]
        ) from error
    except ksa_errors.SSLError as error:
        raise errors.Unreachable(_short(error), transient=False) from error
    except (ksa_errors.ConnectionError, requests.RequestException) as error:
        raise errors.Unreachable(_short(error)) from error
    except ksa_errors.ClientException as error:
        raise errors.ClientError(_short(error)) from error


def _short(error: Exception) -> str:
    return terminal.clean(str(error))[: replies.MOST_TEXT]


def _parsed(parse: Callable[[bytes], _Value], data: bytes) -> _Value:
    try:
        return parse(data)
    except MalformedInput as error:
        raise errors.BadReply(_short(error)) from error


def _refusal(reply: requests.Response, body: bytes) -> errors.Refused:
    request_id = reply.headers.get("x-openstack-request-id", "")
    after = reply.headers.get("Retry-After", "")
    return errors.refusal(
        reply.status_code,
        _said(body) or f"the API answered {reply.status_code} and no reason",
        terminal.clean(request_id)[:64],
        min(int(after), MOST_RETRY_AFTER_S) if after.isascii() and after.isdecimal() else None,
    )


def _said(body: bytes) -> str:
    """Return the message in nova's ``{"conflictingRequest": {"message": …}}``, if there is one."""
    try:
        fault = strict_json.load(body, "fault", MAX_ERROR_BYTES)
    except MalformedInput:
        return ""  # a proxy's page, which tells a tenant nothing that the status does not
    for value in fault.values():
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            return terminal.clean(value["message"])[: replies.MOST_TEXT]
    return ""


def _unsupported(error: errors.BadRequest) -> errors.ClientError:
    # Nova's own words for an action that nobody has registered (nova/api/openstack/wsgi.py).
    if "no such action" in error.said.lower():
        return errors.Unsupported(f"this cloud has no trusted clones ({error.said})")
    return error
