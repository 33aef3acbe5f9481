"""What happens to clones when what controls them dies in mid clone: the conductor, the broker, the database."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator

import pytest
from labkit.cloud.cloud import Cloud
from labkit.cloud.servers import Server

from tests.openstack.clones import Clones, ended_in, held
from tests.openstack.killing import kill
from tests.openstack.tenant import Tenant
from tests.openstack.wire import restart_broker

CONDUCTOR = "trusted-clone-conductor"
# keepalive_interval x keepalive_count of libvirtd, and some more.
LIBVIRTD_PATIENCE_S = 40.0


@pytest.fixture
def clones(cloud: Cloud, tmp_path: pathlib.Path, web: Server) -> Iterator[Clones]:
    """Clones of ``web``, deleted after the story."""
    made = Clones(Tenant(cloud, tmp_path), web)
    yield made
    made.remove()


def test_the_conductor_is_killed_and_comes_back(cloud: Cloud, clones: Clones) -> None:
    running = clones.begin("survivor")
    kill(cloud.service(CONDUCTOR))
    cloud.service(CONDUCTOR).start()
    assert ended_in(running) == ["complete"]


def test_the_broker_is_restarted(cloud: Cloud, clones: Clones) -> None:
    """Not before Nova has placed the server: what its API told its scheduler is lost with the broker, as for any server."""
    with held(clones.source) as hold:
        running = clones.begin("patient")
        hold.wait()
        cloud.service("rabbitmq").stop()
    restart_broker(cloud)
    assert ended_in(running) == ["complete"]
    clones.server("patient").wait_for_status()


def test_hosts_work_after_a_broker_that_was_away_for_long(cloud: Cloud, clones: Clones) -> None:
    """Longer than libvirtd waits for its client's answer: nova-compute must have gone on answering it."""
    with held(clones.source) as hold:
        running = clones.begin("parted")
        hold.wait()
        cloud.service("rabbitmq").stop()
    time.sleep(LIBVIRTD_PATIENCE_S)
    restart_broker(cloud)
    (phase,) = ended_in(running)
    assert phase in ("complete", "failed")  # which of them, is the hosts' limits to say
    clones.made("afterwards")


def test_the_database_is_restarted(cloud: Cloud, clones: Clones) -> None:
    """What the tenant's client makes of an API without a database is its own story; the clone goes on."""
    with held(clones.source) as hold:
        running = clones.begin("lasting")
        hold.wait()
        cloud.service("mariadb").stop()
    cloud.service("mariadb").start()
    running.done()
    assert clones.wait_for_end("lasting") == "complete"
    clones.server("lasting").wait_for_status()
