"""A cloud for a whole run of these tests, and servers for each test that asks for one.

The run brings up a cloud of its own and takes it down; ``LAB_CLOUD`` names the directory of one that is up already and stays
up (``tools/lab cloud up`` makes one in ``.lab/cloud``). This process is in the network of the cloud's control node as long as
the run lasts: what a test asks over HTTP, AMQP or SQL arrives.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

from labkit import libvirtd, netns
from labkit.cloud import clients, servers
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server
from labkit.paths import CHECKOUT, LabPaths
from openstack.connection import Connection

from tests.openstack import inventory

MakeServer = Callable[..., Server]
_NUMBERS = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these need root; without it they are skipped, with the reason shown, and never on the CI."""
    if os.geteuid() == 0 or os.environ.get("CI"):
        return
    for item in items:
        item.add_marker(pytest.mark.skip(reason="needs root: namespaces, mounts, libvirt"))


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """The cloud, with this process in its control node's network. One of the run's own leaves nothing, or the run fails."""
    libvirtd.quieten()
    with _running() as found, netns.inside(found.control.sandbox.holder.pid):
        yield found


@contextlib.contextmanager
def _running() -> Iterator[Cloud]:
    cache = LabPaths.from_environment().cache
    if os.environ.get("LAB_CLOUD"):
        made = Cloud.at(LabPaths(pathlib.Path(os.environ["LAB_CLOUD"]).resolve(), cache))
        assert made.is_up, f"LAB_CLOUD names {made.paths.root}, where no cloud is up"
        yield made
        return
    _forget_former_runs(cache)
    made = Cloud.at(LabPaths(CHECKOUT / ".lab" / f"cloud-test-{os.getpid()}", cache))
    made.up(print)
    try:
        yield made
    finally:
        made.down(print)


def _forget_former_runs(cache: pathlib.Path) -> None:
    """Each run leaves its logs; those of runs that have ended are of no more use."""
    for place in (CHECKOUT / ".lab").glob("cloud-test-*"):
        if not pathlib.Path("/proc", place.name.rpartition("-")[2]).exists():
            Cloud.at(LabPaths(place, cache)).down(
                print
            )  # a run that was killed has left more than logs
            shutil.rmtree(place)


def _connection(cloud: Cloud, user: str) -> Iterator[Connection]:
    connection = clients.connect(cloud.control, user)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def admin(cloud: Cloud) -> Iterator[Connection]:
    """The administrator."""
    yield from _connection(cloud, "admin")


@pytest.fixture(scope="session")
def demo(cloud: Cloud) -> Iterator[Connection]:
    """A tenant."""
    yield from _connection(cloud, "demo")


@pytest.fixture(scope="session")
def other(cloud: Cloud) -> Iterator[Connection]:
    """A tenant of another project."""
    yield from _connection(cloud, "other")


@pytest.fixture(scope="session")
def _server_maker(cloud: Cloud, admin: Connection, demo: Connection) -> Callable[..., Server]:
    def make(
        name: str = "", *, client: Connection | None = None, ready: bool = True, **wished: object
    ) -> Server:
        name = name or f"test-{os.getpid()}-{next(_NUMBERS)}"
        made = servers.create(cloud, client or demo, admin, name, **wished)  # type: ignore[arg-type]
        try:
            if ready:
                _require_works(made)
        except BaseException:
            made.delete()  # nobody has been given it who would
            raise
        return made

    return make


def _require_works(server: Server) -> None:
    server.wait_for_status("ACTIVE")
    server.wait_ready()
    assert server.answers_ping(), f"{server.id} does not answer: {server.console.read()[-2000:]}"


@pytest.fixture
def make_server(_server_maker: MakeServer) -> Iterator[MakeServer]:
    """A function that makes a server of tenant demo, waits until it works and answers, and deletes it after the test.

    ``make_server("web", flavor="medium", networks=("lan", "back"), client=other, ready=False, config_drive=True)``: what is
    not a name of ``servers.create``'s goes to Nova's API.
    """
    made: list[Server] = []

    def make(*arguments: object, **wished: object) -> Server:
        made.append(_server_maker(*arguments, **wished))
        return made[-1]

    yield make
    for server in made:
        server.delete()


@pytest.fixture(scope="session")
def web(_server_maker: MakeServer) -> Iterator[Server]:
    """A running server with a vTPM, for all stories that leave it unharmed."""
    server = _server_maker("web")
    yield server
    server.delete()


@pytest.fixture
def nothing_left(cloud: Cloud) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """``with nothing_left(): ...``: afterwards the cloud has no more and no less than before, on hosts and in databases."""
    return lambda: inventory.nothing_left(cloud)
