"""How long a tenant waits for a clone, and for a new server of the same flavor: from the request until it is ACTIVE.

Both by turns in one cloud, through Nova's API, on a flavor with a vTPM; every server is deleted before the next is asked
for. A clone does not boot. It attests both hosts, freezes its source and is restored, and runs before all of its memory is
there; so it is also told when it is complete, and when each of the two answers at its address.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bench import cloudlab, drawing, machine
from bench.figure import AT_MOST, Figure
from bench.report import BenchError, Report, Settings
from bench.sampling import Samples, by_turns, named_json

if TYPE_CHECKING:
    from labkit.cloud.cloud import Cloud
    from openstack.connection import Connection

NAME = "cloud_active"
TITLE = "From the request to ACTIVE: a clone, and a new server of the same flavor"
FLAVOR = "small"
POLL_S = 0.2
LIMIT_S = 300.0
CREATE, CLONE = "create", "clone"
MOMENTS = ("accepted", "active", "complete", "answers")


@dataclasses.dataclass
class _Tenant:
    """Who asks for servers, in the cloud's network."""

    cloud: Cloud
    client: Connection
    admin: Connection
    wish: dict[str, Any]
    source: str = ""
    seen: dict[str, list[dict[str, Any]]] = dataclasses.field(
        default_factory=lambda: {CREATE: [], CLONE: []}
    )

    @classmethod
    def of(cls, cloud: Cloud, client: Connection, admin: Connection) -> _Tenant:
        from labkit.cloud import resources

        wish = {
            "flavorRef": client.compute.find_flavor(FLAVOR, ignore_missing=False).id,
            "imageRef": client.image.find_image(resources.IMAGE, ignore_missing=False).id,
            "networks": [
                {"uuid": client.network.find_network(resources.NETWORK, ignore_missing=False).id}
            ],
        }
        return cls(cloud, client, admin, wish)

    def create(self) -> float:
        """Seconds until a new server is ACTIVE."""
        return self._measure(CREATE, self._ask_for_server)

    def clone(self) -> float:
        """Seconds until a clone of the source is ACTIVE."""
        return self._measure(CLONE, self._ask_for_clone)

    @contextlib.contextmanager
    def a_source(self) -> Iterator[None]:
        """A running server for a block of code, which works and checks itself."""
        from labkit.cloud.servers import Server

        self.source = self._ask_for_server()
        server = Server(self.cloud, self.client, self.admin, self.source)
        try:
            server.wait_for_status("ACTIVE")
            server.wait_ready()
            server.console.check_itself()
            yield
            server.console.check_itself(since=server.console.size())
        finally:
            server.delete()

    # -- within -------------------------------------------------------------------------------------------------------

    def _ask_for_server(self) -> str:
        body = {"server": {"name": f"bench-{CREATE}", **self.wish}}
        return str(self._post("/servers", body)["server"]["id"])

    def _ask_for_clone(self) -> str:
        body = {"trustedClone": {"name": f"bench-{CLONE}"}}
        (made,) = self._post(f"/servers/{self.source}/action", body)["trusted_clones"]["servers"]
        return str(made["id"])

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        reply = self.client.compute.post(path, json=body)
        if not reply.ok:
            raise BenchError(f"POST {path}: {reply.status_code} {reply.text}")
        return reply.json()

    def _measure(self, way: str, ask: Callable[[], str]) -> float:
        from labkit.cloud.servers import Server

        began = time.monotonic()
        server = Server(self.cloud, self.client, self.admin, ask())
        after = {"accepted": time.monotonic() - began}
        try:
            self._wait(lambda: self._is_active(server.id))
            after["active"] = time.monotonic() - began
            if not server.answers_ping(LIMIT_S):
                raise BenchError(f"a server by {way} does not answer; {server.console.path}")
            after["answers"] = time.monotonic() - began
            after["complete"] = after["active"]
            if way == CLONE:
                after["complete"] = self._complete_s(server.id, began)
            self.seen[way].append({**after, "host": server.host.name})
        finally:
            server.delete()
        return after["active"]

    def _wait(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not reached():
            if time.monotonic() > deadline:
                raise BenchError(f"nothing came of a server within {LIMIT_S:g} s")
            time.sleep(POLL_S)

    def _is_active(self, server: str) -> bool:
        shown = self.client.compute.get(f"/servers/{server}").json()["server"]
        if shown["status"] == "ERROR":
            raise BenchError(f"server {server}: {shown.get('fault', {}).get('message')}")
        return bool(shown["status"] == "ACTIVE")

    def _complete_s(self, server: str, began: float) -> float:
        """Not sooner than it is looked for: after the clone has answered."""

        def is_complete() -> bool:
            (record,) = self.client.compute.get(f"/servers/{server}/trusted-clones").json()[
                "trusted_clones"
            ]
            if record["phase"] in ("failed", "aborted"):
                raise BenchError(f"the clone is {record['phase']}: {record['reason']}")
            return bool(record["phase"] == "complete")

        self._wait(is_complete)
        return time.monotonic() - began


def measure(settings: Settings) -> Report:
    """Measure."""
    facts = machine.facts()
    with cloudlab.up(settings.say) as cloud:
        from labkit.cloud import clients

        client, admin = (
            clients.connect(cloud.control, cloudlab.TENANT),
            clients.connect(cloud.control),
        )
        with contextlib.closing(client), contextlib.closing(admin):
            tenant = _Tenant.of(cloud, client, admin)
            settings.say("a source, and the first of both, which does not count")
            with tenant.a_source():
                # The image is fetched, and libvirt looks at QEMU's abilities, once on each host.
                tenant.create()
                tenant.clone()
                first, tenant.seen = tenant.seen, {CREATE: [], CLONE: []}
                settings.say("by turns")
                found = by_turns(
                    {CREATE: tenant.create, CLONE: tenant.clone}, 3 if settings.quick else 6
                )
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "flavor": FLAVOR,
            "seconds_to_active": named_json(found),
            "after_s": {way: _rows(rows) for way, rows in tenant.seen.items()},
            "first_after_s": {way: _rows(rows) for way, rows in first.items()},
        },
        figures=_figures(tenant.seen),
        notes=(
            f"the status is asked for every {POLL_S:g} s; 'complete' is looked for after the clone has answered",
            "first_after_s: the first of each; it does not count",
        ),
    )


def _rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _figures(seen: dict[str, list[dict[str, Any]]]) -> tuple[Figure, ...]:
    """ACTIVE is what is wanted; a server that a tenant can reach is what it is for."""
    figures = []
    for moment, name, wanted in (("active", "ACTIVE", 2.5), ("answers", "answers a ping", 1.0)):
        found = {way: Samples(tuple(row[moment] for row in rows)) for way, rows in seen.items()}
        remark = f"{found[CLONE].median:.1f} s and {found[CREATE].median:.1f} s"
        title = f"a clone {name} / a new server {name}"
        ratio = found[CLONE].per(found[CREATE])
        figures.append(Figure.of(title, AT_MOST, wanted, ratio, remark=remark))
    return tuple(figures)


def draw(report: Report, path: pathlib.Path) -> None:
    """Each moment of both ways: every round a dot, the median a bar."""
    import statistics

    rows: dict[str, list[dict[str, float]]] = report.data["after_s"]
    with drawing.sheet(report, path) as (axes,):
        for offset, way, label in ((-0.2, CREATE, "a new server"), (0.2, CLONE, "a clone")):
            for place, moment in enumerate(MOMENTS):
                values = [row[moment] for row in rows[way]]
                if way == CREATE and moment == "complete":
                    continue
                colour = "C0" if way == CREATE else "C1"
                shown = label if place == 0 else None
                axes.bar(place + offset, statistics.median(values), 0.38, label=shown, color=colour)
                axes.plot([place + offset] * len(values), values, "k.", markersize=4)
        labels = ["request answered", "ACTIVE", "all verified", "answers a ping"]
        axes.set_xticks(range(len(MOMENTS)), labels)
        axes.set_ylabel("seconds after the request (bars: medians; dots: each)")
        axes.legend(fontsize=8)
