"""What the API's extension costs requests that do not use it: ``GET /servers`` with and without it, by turns.

Two processes of nova-api in one cloud: one with Nova's own paste pipeline, one whose pipeline ends in this project's router.
All else of them is the same: configuration, database, cache, the token, the servers listed, and their age and priority, as
both are started for this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import pathlib
import shutil
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench import cloudlab, drawing, machine
from bench.figure import AT_MOST, Figure
from bench.report import BenchError, Report, Settings
from bench.sampling import Samples, by_turns, seconds

if TYPE_CHECKING:
    from labkit.cloud.cloud import Cloud
    from labkit.cloud.nodes import Control
    from labkit.cloud.service import Service
    from openstack.connection import Connection

NAME = "cloud_requests"
TITLE = "GET /servers, with and without the API's extension"
WITH, WITHOUT = "with the extension", "without"
PORTS = {WITH: 8784, WITHOUT: 8785}
REQUESTS = 200
SERVERS = 3
WARM_UP = 20
WANTED = 1.05
LIMIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class _Api:
    """One nova-api, asked by one token for one list of servers."""

    address: str
    port: int
    token: str

    def ask(self) -> list[Any]:
        """One request on a connection of its own; the servers in its answer.

        :raises BenchError: another answer
        """
        connection = http.client.HTTPConnection(self.address, self.port, timeout=LIMIT_S)
        with contextlib.closing(connection):
            connection.request("GET", "/v2.1/servers", headers={"X-Auth-Token": self.token})
            reply = connection.getresponse()
            body = reply.read()
        if reply.status != 200:
            raise BenchError(f"port {self.port}: {reply.status} {body[:200]!r}")
        found: list[Any] = json.loads(body)["servers"]
        return found

    def seconds(self) -> float:
        """How long one request takes."""
        return seconds(self.ask)


def measure(settings: Settings) -> Report:
    """Measure."""
    facts = machine.facts()
    rounds = 2 if settings.quick else 3
    with cloudlab.up(settings.say) as cloud:
        from labkit.cloud import clients

        client, admin = (
            clients.connect(cloud.control, cloudlab.TENANT),
            clients.connect(cloud.control),
        )
        with (
            contextlib.closing(client),
            contextlib.closing(admin),
            _servers(cloud, client, admin),
            _apis(cloud.control),
        ):
            ways = _ways(cloud, client)
            settings.say(f"{rounds} rounds of {REQUESTS} requests each way")
            found = [by_turns(ways, REQUESTS) for _ in range(rounds)]
    medians = {way: Samples(tuple(one[way].median for one in found)) for way in (WITH, WITHOUT)}
    return Report(
        name=NAME,
        title=TITLE,
        quick=settings.quick,
        machine=facts,
        data={
            "requests_a_round": REQUESTS,
            "servers": SERVERS,
            "median_ms": {
                way: [round(value * 1e3, 3) for value in one.values] for way, one in medians.items()
            },
            "deciles_ms": {way: _deciles([one[way] for one in found]) for way in (WITH, WITHOUT)},
        },
        figures=(_figure(medians),),
        notes=(
            f"each round: {REQUESTS} requests each way, by turns; the medians of a round make its ratio",
            "each request has a connection of its own; the token is the same and stays in the cache",
        ),
    )


def _ways(cloud: Cloud, client: Connection) -> dict[str, Any]:
    token = str(client.session.get_token())
    apis = {way: _Api(cloud.control.address, port, token) for way, port in PORTS.items()}
    for _ in range(WARM_UP):
        listed = {way: len(api.ask()) for way, api in apis.items()}
        if listed[WITH] != listed[WITHOUT] or listed[WITH] < SERVERS:
            raise BenchError(f"they list different servers: {listed}")
    return {way: api.seconds for way, api in apis.items()}


@contextlib.contextmanager
def _servers(cloud: Cloud, client: Connection, admin: Connection) -> Iterator[None]:
    """Some servers to list; stopped, as a guest that runs takes the processor from what is measured."""
    from labkit.cloud import servers

    made = []
    try:
        for number in range(SERVERS):
            name = f"bench-listed-{number}"
            made.append(servers.create(cloud, client, admin, name, flavor="plain"))
        for one in made:
            one.wait_for_status("ACTIVE")
            client.compute.stop_server(one.id)
        for one in made:
            one.wait_for_status("SHUTOFF")
        yield
    finally:
        for one in made:
            one.delete()


@contextlib.contextmanager
def _apis(control: Control) -> Iterator[None]:
    """Both processes, for a block of code."""
    from labkit.cloud import nova, trusted

    with contextlib.ExitStack() as undo:
        for way, name, router in (
            (WITH, "extended", trusted.ROUTER),
            (WITHOUT, "plain", nova.NOVA_ROUTER),
        ):
            place = control.conf / f"nova-{name}"
            undo.callback(shutil.rmtree, place)
            service = _api(control, place, PORTS[way], router)
            undo.callback(service.stop)
            service.start()
        yield


def _api(control: Control, place: pathlib.Path, port: int, router: str) -> Service:
    """A nova-api with a copy of the cloud's configuration at ``place``, and a pipeline that ends in ``router``."""
    from labkit.cloud import nova, trusted
    from labkit.cloud.service import wsgi

    ours = nova.directory(control)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ours, place)
    options = (ours / "nova.conf").read_text()
    (place / "nova.conf").write_text(options.replace(str(ours), str(place)))
    pipeline = (ours / nova.PASTE).read_text()
    if trusted.ROUTER not in pipeline:
        raise BenchError("this cloud's nova-api has no extension to compare with")
    (place / nova.PASTE).write_text(pipeline.replace(trusted.ROUTER, router))
    environment = {
        "OS_NOVA_CONFIG_DIR": str(place),
        "OS_NOVA_CONFIG_FILES": f"{nova.PASTE};nova.conf",
    }
    module = ("--module", "nova.wsgi.osapi_compute:application")
    return wsgi(control, place.name, port, module, environment)


def _deciles(rounds: list[Samples]) -> list[float]:
    values = [value * 1e3 for one in rounds for value in one.values]
    return [round(value, 3) for value in statistics.quantiles(values, n=10)]


def _figure(medians: dict[str, Samples]) -> Figure:
    remark = f"{medians[WITH].median * 1e3:.1f} ms and {medians[WITHOUT].median * 1e3:.1f} ms"
    return Figure.of(
        "GET /servers with the extension / without",
        AT_MOST,
        WANTED,
        medians[WITH].per(medians[WITHOUT]),
        remark=remark,
    )


def draw(report: Report, path: pathlib.Path) -> None:
    """The distribution of both, and the medians of the rounds."""
    data = report.data
    with drawing.sheet(report, path, panels=2) as (left, right):
        for way in (WITH, WITHOUT):
            left.plot(range(10, 100, 10), data["deciles_ms"][way], "o-", label=way, markersize=4)
            rounds = data["median_ms"][way]
            right.plot(range(1, len(rounds) + 1), rounds, "o-", label=way, markersize=4)
        left.set_xlabel("per cent of the requests that were no slower")
        right.set_xlabel("round")
        for axes, label in ((left, "milliseconds"), (right, "milliseconds (median of a round)")):
            axes.set_ylim(bottom=0)
            axes.set_ylabel(label)
            axes.legend(fontsize=8)
