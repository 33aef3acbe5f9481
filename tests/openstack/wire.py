"""The real broker, by its password: for who forges messages, and for hosts that exist only there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import amqp
import oslo_messaging as messaging
import pytest
from labkit import process
from labkit.cloud import settings
from labkit.cloud.cloud import Cloud
from nova import context as nova_context
from nova import rpc
from oslo_config import cfg

from nova_trusted_clone.rpc import COMPUTE_TOPIC, CONDUCTOR_TOPIC
from nova_trusted_clone.rpc.conductor import ConductorAPI
from tests.openstack import configured

LISTENERS_LIMIT_S = 120.0


@pytest.fixture(scope="module")
def transport(cloud: Cloud) -> Iterator[Any]:
    """The real broker, by its password."""
    cfg.CONF([], project="nova", default_config_files=[])
    messaging.set_transport_defaults("nova")
    url = f"rabbit://guest:guest@{cloud.control.address}:{settings.RABBITMQ}/"
    before, rpc.TRANSPORT = rpc.TRANSPORT, messaging.get_rpc_transport(cfg.CONF, url=url)
    yield rpc.TRANSPORT
    rpc.TRANSPORT.cleanup()
    rpc.TRANSPORT = before


def restart_broker(cloud: Cloud) -> None:
    """Start it, which was stopped, and wait until every service listens to it again, and Nova has heard of its hosts.

    What is cast before that is lost, and Nova's API takes a deletion that is under way for done and casts it no more.
    """
    with configured.known_again(cloud, [host.name for host in cloud.computes]):
        cloud.service("rabbitmq").start()
        _await_listeners(cloud)


def _await_listeners(cloud: Cloud) -> None:
    queues = ["conductor", "scheduler", CONDUCTOR_TOPIC]
    for host in cloud.computes:
        queues += [f"compute.{host.name}", f"{COMPUTE_TOPIC}.{host.name}"]
    listening = process.wait_until(
        lambda: all(_has_listener(cloud, queue) for queue in queues), LISTENERS_LIMIT_S, 0.5
    )
    assert listening, f"not all of {', '.join(queues)} have a listener again"


def _has_listener(cloud: Cloud, queue: str) -> bool:
    with amqp.Connection(f"{cloud.control.address}:{settings.RABBITMQ}") as connection:
        try:
            found = connection.channel().queue_declare(queue, passive=True)
        except amqp.NotFound:
            return False
        return bool(found.consumer_count)


@pytest.fixture
def conductor(transport: Any) -> ConductorAPI:
    return ConductorAPI(insist_s=0)


@pytest.fixture
def forger() -> Any:
    """Whoever writes that he is the administrator."""
    return nova_context.RequestContext(user_id="forger", project_id="forged", is_admin=True)
