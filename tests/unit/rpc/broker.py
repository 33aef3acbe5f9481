"""A broker that works, within the process: oslo.messaging's own fake transport under nova's RPC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import oslo_messaging as messaging
from nova import context as nova_context
from nova import rpc
from oslo_config import cfg


def context(project_id: str = "p1", user_id: str = "u1") -> Any:
    return nova_context.RequestContext(
        user_id=user_id, project_id=project_id, auth_token="t", is_admin=False
    )


@contextlib.contextmanager
def broker() -> Iterator[Any]:
    """A transport of its own; every call sees only what is served on it."""
    # oslo.messaging has some options of its own on the global object only, which is nova's too.
    cfg.CONF([], project="nova", default_config_files=[])
    transport = messaging.get_rpc_transport(cfg.CONF, url="fake:/")
    before, rpc.TRANSPORT = rpc.TRANSPORT, transport
    try:
        yield transport
    finally:
        rpc.TRANSPORT = before
        transport.cleanup()


@contextlib.contextmanager
def serving(transport: Any, topic: str, server: str, endpoint: Any) -> Iterator[None]:
    """Answer by ``endpoint`` on a topic."""
    found = messaging.get_rpc_server(
        transport,
        messaging.Target(topic=topic, server=server),
        [endpoint],
        executor="threading",
        serializer=rpc.RequestContextSerializer(rpc.JsonPayloadSerializer()),
        access_policy=messaging.rpc.dispatcher.DefaultRPCAccessPolicy,
    )
    found.start()
    try:
        yield
    finally:
        found.stop()
        found.wait()
