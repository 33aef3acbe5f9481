"""The real broker, by its password: for who forges messages, and for hosts that exist only there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import oslo_messaging as messaging
import pytest
from labkit.cloud import settings
from labkit.cloud.cloud import Cloud
from nova import context as nova_context
from nova import rpc
from oslo_config import cfg

from nova_trusted_clone.rpc.conductor import ConductorAPI


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


@pytest.fixture
def conductor(transport: Any) -> ConductorAPI:
    return ConductorAPI(insist_s=0)


@pytest.fixture
def forger() -> Any:
    """Whoever writes that he is the administrator."""
    return nova_context.RequestContext(user_id="forger", project_id="forged", is_admin=True)
