"""A small cloud that answers as keystone, nova, neutron and the trusted-clone API do, on loopback.

Clones walk through their phases by one step for each time that somebody looks. Faults are asked for
by method and end of path, and come as often as they are asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socketserver
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref import simple_server

PROJECT = "5f0c2f8ad2c94d5ab8e5e0a7a3a0f2c1"
PHASES = ("scheduling", "claimed", "fetching", "provisional", "complete")
TIME = "2026-11-24T21:00:{:02}Z"
Reply = tuple[int, Any]


@dataclasses.dataclass
class Fault:
    """One wrong answer for one request.

    :ivar cut: send this many bytes of the body and hang up
    """

    method: str
    path: str
    status: int = 503
    body: Any = "upstream is away"
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None


class Cloud:
    """State and routes. What was asked and answered is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answered: list[tuple[str, str, Any]] = []
        self.faults: list[Fault] = []
        self.tokens: set[str] = set()
        self.accepts_passwords = True
        self.offers_clones = True
        self.page_size = 1000
        self.servers: dict[str, str] = {}
        self.networks: dict[str, str] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self.scripts: dict[str, Iterator[dict[str, Any]]] = {}
        self.evidence: dict[str, Any] = {}
        self.new_server_ids: list[str] = []
        # Nova's statuses of a server by its name, one for each look; ACTIVE when there are no more.
        self.statuses: dict[str, list[str]] = {}
        self.next_phases: list[tuple[str, ...]] = []
        self.on_look: Callable[[Cloud], None] = lambda cloud: None
        self.url = ""

    def server(self, name: str, server_id: str | None = None) -> str:
        """Boot a server."""
        server_id = server_id or str(uuid.uuid4())
        self.servers[server_id] = name
        return server_id

    def record(self, source: str, server: str, **fields: Any) -> dict[str, Any]:
        """Write a clone's record, as the API shows it."""
        number = len(self.records)
        made = {
            "id": str(uuid.uuid4()),
            "group": "ab" * 16,
            "freeze_id": None,
            "name": self.servers[server],
            "server_id": server,
            "source_id": source,
            "project_id": PROJECT,
            "phase": "scheduling",
            "reason": None,
            "code": None,
            "vtpm": "new",
            "memory": "lazy",
            "nonce": "00" * 16,
            "progress": {},
            "pause_us": None,
            "attempts": [],
            "lineage": [],
            "created_at": TIME.format(number % 60),
            "updated_at": None,
            "completed_at": None,
            "request_id": f"req-{uuid.uuid4()}",
        }
        self.records[str(made["id"])] = made | fields
        return self.records[str(made["id"])]

    def expire_tokens(self) -> None:
        """Make every token one of yesterday."""
        self.tokens.clear()

    def forget(self, server_id: str) -> None:
        """Delete a server with its records."""
        del self.servers[server_id]
        self.records = {k: v for k, v in self.records.items() if v["server_id"] != server_id}

    def fail(self, method: str, path: str, times: int = 1, **what: Any) -> None:
        """Answer wrongly as many times."""
        self.faults += [Fault(method, path, **what) for _ in range(times)]

    def requests(self, method: str, path: str) -> list[Any]:
        """The bodies of requests whose path ends so."""
        return [body for verb, at, body in self.asked if verb == method and at.endswith(path)]

    # ------------------------------------------------------------------ the wire

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        """One WSGI request."""
        method, path = environ["REQUEST_METHOD"], _path(environ)
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = json.loads(environ["wsgi.input"].read(size)) if size else None
        self.asked.append((method, path, body))
        fault = self._fault(method, path)
        if fault is not None:
            return _answer(start, fault.status, fault.body, fault.headers, fault.cut)
        status, reply, *headers = self._route(method, path, body, environ)
        if status < 400:
            self.answered.append((method, path, reply))
        return _answer(start, status, reply, headers)

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and path.endswith(fault.path):
                self.faults.remove(fault)
                return fault
        return None

    def _route(self, method: str, path: str, body: Any, environ: dict[str, Any]) -> Any:
        if path.startswith("/identity"):
            return self._identity(method, path)
        if environ.get("HTTP_X_AUTH_TOKEN") not in self.tokens:
            return 401, {"error": {"code": 401, "message": "The request needs authentication."}}
        query = environ.get("QUERY_STRING", "")
        for verb, pattern, handle in _ROUTES:
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                return handle(self, *found.groups(), body=body, query=query)
        return _missing(path)

    def _identity(self, method: str, path: str) -> Any:
        if not path.endswith("/auth/tokens"):
            return 200, {"version": _version("v3.14", f"{self.url}/identity/v3")}
        if not self.accepts_passwords:
            return 401, {"error": {"code": 401, "message": "The password is not right any more."}}
        token = uuid.uuid4().hex
        self.tokens.add(token)
        return 201, {"token": _token(self.url)}, ("X-Subject-Token", token)

    # ------------------------------------------------------------------ the routes

    def _find_servers(self, *, body: Any, query: str) -> Reply:
        # Nova takes the name for a regular expression, and so is every part of it found.
        asked = re.search(r"name=([^&]*)", query)
        name = _unquoted(asked[1]) if asked else ""
        rows = [_server(key, is_) for key, is_ in self.servers.items() if name in is_]
        return 200, {"servers": rows}

    def _get_server(self, server: str, *, body: Any, query: str) -> Reply:
        if server not in self.servers:
            return _missing(f"Instance {server}")
        told = self.statuses.get(self.servers[server])
        return 200, {
            "server": _server(server, self.servers[server], told.pop(0) if told else "ACTIVE")
        }

    def _find_networks(self, *, body: Any, query: str) -> Reply:
        asked = re.search(r"name=([^&]*)", query)
        rows = [
            {"id": key, "name": name}
            for key, name in self.networks.items()
            if asked and name == _unquoted(asked[1])
        ]
        return 200, {"networks": rows}

    def _get_network(self, network: str, *, body: Any, query: str) -> Reply:
        if network not in self.networks:
            return _missing(network)
        return 200, {"network": {"id": network, "name": self.networks[network]}}

    def _act(self, source: str, *, body: Any, query: str) -> Reply:
        if not self.offers_clones:
            said = f"There is no such action: {next(iter(body))}"
            return 400, {"badRequest": {"code": 400, "message": said}}
        asked = body["trustedClone"]
        name = asked.get("name") or f"{self.servers[source]}-clone"
        count = asked["count"]
        names = [name] if count == 1 else [f"{name}-{n + 1}" for n in range(count)]
        made = [self._begin(source, each, asked) for each in names]
        rows = [{"id": row["server_id"], "name": row["name"], "links": []} for row in made]
        clones = [{"id": row["id"], "server_id": row["server_id"]} for row in made]
        said = {"group": "ab" * 16, "nonce": asked.get("nonce", "00" * 16)}
        return 202, {"trusted_clones": said | {"servers": rows, "clones": clones}}

    def _begin(self, source: str, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        server = self.server(name, self.new_server_ids.pop(0) if self.new_server_ids else None)
        row = self.record(source, server, nonce=asked.get("nonce", "00" * 16))
        phases = self.next_phases.pop(0) if self.next_phases else PHASES
        self.scripts[row["id"]] = iter([_state(phase) for phase in phases])
        return row

    def _look(self) -> None:
        self.on_look(self)
        for clone, script in self.scripts.items():
            if clone in self.records:
                self.records[clone].update(next(script, {}))

    def _list(self, server: str, *, body: Any, query: str) -> Reply:
        self._look()
        if server not in self.servers:
            return _missing(f"Instance {server}")
        rows = [r for r in self.records.values() if server in (r["server_id"], r["source_id"])]
        rows.reverse()  # newest first
        marker = re.search(r"marker=([^&]*)", query)
        if marker:
            rows = rows[[row["id"] for row in rows].index(marker[1]) + 1 :]
        page, rest = rows[: self.page_size], rows[self.page_size :]
        links = (
            {"trusted_clones_links": [{"rel": "next", "href": "http://elsewhere/"}]} if rest else {}
        )
        return 200, {"trusted_clones": page} | links

    def _list_all(self, *, body: Any, query: str) -> Reply:
        self._look()
        rows = list(reversed(self.records.values()))
        asked = re.search(r"marker=([^&]*)", query)
        if asked:
            rows = rows[[row["id"] for row in rows].index(asked[1]) + 1 :]
        limit = re.search(r"limit=([0-9]+)", query)
        most = min(self.page_size, int(limit[1])) if limit else self.page_size
        links = {"trusted_clones_links": [{"rel": "next", "href": "http://elsewhere/"}]}
        return 200, {"trusted_clones": rows[:most]} | (links if rows[most:] else {})

    def _show(self, server: str, clone: str, *, body: Any, query: str) -> Reply:
        row = self.records.get(clone)
        if server not in self.servers or row is None:
            return _missing(f"Clone {clone}")
        return 200, {"trusted_clone": row}

    def _evidence(self, server: str, clone: str, *, body: Any, query: str) -> Reply:
        if clone not in self.evidence and server not in self.evidence:
            said = f"Clone {clone} is not complete: there is no evidence yet."
            return 409, {"conflictingRequest": {"code": 409, "message": said}}
        return 200, {"evidence": self.evidence.get(clone) or self.evidence[server]}

    def _abort(self, server: str, clone: str, *, body: Any, query: str) -> Reply:
        row = self.records.get(clone)
        if row is None:
            return _missing(f"Clone {clone}")
        if row["phase"] == "complete":
            said = f"Clone {clone} is complete: delete its server instead."
            return 409, {"conflictingRequest": {"code": 409, "message": said}}
        row.update(phase="aborted", reason="asked for")
        return 202, None

    def _versions(self, *, body: Any, query: str) -> Reply:
        version = {"id": "v1.1", "status": "CURRENT", "updated": TIME.format("00"), "links": []}
        return (200, {"versions": [version]}) if self.offers_clones else _missing("/trusted-clone")

    def _root(self, *, body: Any, query: str) -> Reply:
        return 200, {"version": _version("v2.1", f"{self.url}/compute/v2.1/")}


_ID = "([^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/compute/v2.1/?", Cloud._root),
    ("GET", "/compute/v2.1/trusted-clone", Cloud._versions),
    ("GET", "/compute/v2.1/trusted-clones", Cloud._list_all),
    ("GET", "/compute/v2.1/servers(?:/detail)?", Cloud._find_servers),
    ("GET", f"/compute/v2.1/servers/{_ID}", Cloud._get_server),
    ("POST", f"/compute/v2.1/servers/{_ID}/action", Cloud._act),
    ("GET", f"/compute/v2.1/servers/{_ID}/trusted-clones", Cloud._list),
    ("GET", f"/compute/v2.1/servers/{_ID}/trusted-clones/{_ID}", Cloud._show),
    ("GET", f"/compute/v2.1/servers/{_ID}/trusted-clones/{_ID}/evidence", Cloud._evidence),
    ("DELETE", f"/compute/v2.1/servers/{_ID}/trusted-clones/{_ID}", Cloud._abort),
    ("GET", "/network/v2.0/networks", Cloud._find_networks),
    ("GET", f"/network/v2.0/networks/{_ID}", Cloud._get_network),
)


def _state(phase: str) -> dict[str, Any]:
    total = 64 << 20
    done = {"fetching": total // 4, "provisional": total // 2, "complete": total}.get(phase, 0)
    state: dict[str, Any] = {"phase": phase}
    if done:
        state["pause_us"] = 23000
        state["progress"] = {
            "pages_verified": done >> 12,
            "pages_total": total >> 12,
            "bytes_verified": done,
            "bytes_total": total,
            "rate_bytes_s": 25 << 19,
        }
    if phase == "failed":
        state |= {"reason": "host b: PCR 4 is not as it should be", "code": "trusted-clone.x"}
    return state


def _server(server_id: str, name: str, status: str = "ACTIVE") -> dict[str, Any]:
    return {"id": server_id, "name": name, "status": status, "links": []}


def _missing(what: str) -> Reply:
    return 404, {"itemNotFound": {"code": 404, "message": f"{what} could not be found."}}


def _version(name: str, url: str) -> dict[str, Any]:
    link = {"rel": "self", "href": url}
    more = {"version": "2.104", "min_version": "2.1"} if name == "v2.1" else {}
    return {"id": name, "status": "CURRENT", "links": [link], "media-types": []} | more


def _token(url: str) -> dict[str, Any]:
    def service(kind: str, path: str) -> dict[str, Any]:
        endpoint = {"interface": "public", "region": "one", "region_id": "one", "id": kind}
        return {
            "type": kind,
            "name": kind,
            "id": kind,
            "endpoints": [endpoint | {"url": url + path}],
        }

    domain = {"id": "default", "name": "Default"}
    return {
        "methods": ["password"],
        "expires_at": "2099-01-01T00:00:00.000000Z",
        "issued_at": "2026-01-01T00:00:00.000000Z",
        "user": {"id": "u", "name": "tenant", "domain": domain},
        "project": {"id": PROJECT, "name": "p", "domain": domain},
        "roles": [{"id": "member", "name": "member"}],
        "catalog": [service("compute", "/compute/v2.1"), service("network", "/network")],
    }


def _path(environ: dict[str, Any]) -> str:
    return str(environ["PATH_INFO"]).encode("latin-1").decode()


def _unquoted(text: str) -> str:
    from urllib.parse import unquote_plus

    return unquote_plus(text).strip("^$")


def _answer(
    start: Callable[..., Any],
    status: int,
    reply: Any,
    headers: Any = (),
    cut: int | None = None,
) -> list[bytes]:
    raw = b"" if reply is None else reply if isinstance(reply, bytes) else _encoded(reply)
    kind = "application/json" if not isinstance(reply, str) else "text/html"
    sent = [("Content-Type", kind), ("Content-Length", str(len(raw)))]
    start(f"{status} told", [*sent, ("x-openstack-request-id", "req-1"), *headers])
    return [raw if cut is None else raw[:cut]]


def _encoded(reply: Any) -> bytes:
    return reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()


class _Handler(simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


@contextlib.contextmanager
def listening() -> Iterator[simple_server.WSGIServer]:
    """Yield a server on loopback that still needs a cloud."""
    server = simple_server.make_server("127.0.0.1", 0, _nothing, _Server, _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cloud_at(server: simple_server.WSGIServer) -> Cloud:
    """Put a new cloud behind a server's address."""
    cloud = Cloud()
    cloud.url = f"http://127.0.0.1:{server.server_port}"
    server.set_app(cloud)
    return cloud


def _nothing(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    return _answer(start, 503, "no cloud yet")
