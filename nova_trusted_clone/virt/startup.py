"""What a restarted nova-compute does about the clones that a former one left.

=========================================  ==========================================================================
Nova says of the server                     the engine's clone
=========================================  ==========================================================================
it is being built, and the clone goes on    taken over: a thread waits for it, as ``spawn()`` would have, and the
                                            server becomes ACTIVE
it is being built, and there is no clone    taken back; Nova itself sets such a server to ERROR
or it has failed
there is no such server on this host        ended, and its records removed
=========================================  ==========================================================================

Leans on ``ComputeDriver.process_instances_at_startup``, which Nova calls after ``init_host`` and before it looks at each
server.
"""

from __future__ import annotations

import threading
from typing import Any

from nova import exception, objects, utils
from oslo_log import log as logging

from nova_trusted_clone.virt import servers
from nova_trusted_clone.virt.receive import Build, Parts, Receiver
from nova_trusted_clone.virt.reception import Ending

LOG = logging.getLogger(__name__)
INTERRUPTED = Ending(
    "nova-compute was restarted before the clone had begun to run; order it anew",
    "trusted-clone.host.restarted",
)


def process(parts: Parts | None, context: Any, instances: Any) -> Any:
    """Return the servers that Nova shall go on with by itself."""
    if parts is None:
        return instances
    end_orphans(parts, {instance.uuid for instance in instances})
    return objects.InstanceList(
        context,
        objects=[one for one in instances if not _interrupted(parts, context, one)],
    )


def end_orphans(parts: Parts, known: set[str]) -> None:
    """End the clones whose servers are not this host's any more: deleted while nova-compute was away."""
    for status in parts.engine.destination.clones():
        server = str(status["server"])
        if server not in known:
            LOG.warning("clone %s: its server %s is gone", status["clone_id"], server)
            parts.follower.expect_end(str(status["clone_id"]))
            parts.engine.destination.forget(server, "its server was deleted")


def _interrupted(parts: Parts, context: Any, instance: Any) -> bool:
    """Handle a server whose reception was interrupted; whether it is in this module's hands now."""
    try:
        mark = servers.mark_of(instance)
    except exception.BuildAbortException as error:
        LOG.error("%s", error, instance=instance)
        return False
    if mark is None:
        return False
    receiver = Receiver(parts, mark, _build_of(context, instance))
    status = parts.engine.destination.of_server(instance.uuid)
    if status is not None and status["phase"] != "failed":
        clone_id = str(status["clone_id"])
        LOG.info("taking over clone %s: it is %s", clone_id, status["phase"], instance=instance)
        threading.Thread(
            target=_take_over,
            args=(parts, context, instance, receiver, clone_id),
            name=f"take-over-{clone_id[:8]}",
            daemon=True,
        ).start()
        return True
    receiver.take_back(INTERRUPTED, str(status["clone_id"]) if status is not None else None)
    return False


def _take_over(
    parts: Parts, context: Any, instance: Any, receiver: Receiver, clone_id: str
) -> None:
    """Finish a build in a thread, under Nova's own lock of the server."""

    @utils.synchronized(instance.uuid)  # type: ignore[untyped-decorator]
    def locked() -> None:
        try:
            receiver.take_over(clone_id)
            servers.make_active(instance, parts.driver.get_info(instance).state)
        except exception.InstanceNotFound:
            LOG.info("the server was deleted while it was received", instance=instance)
        except Exception as error:
            LOG.exception("taking over clone %s", clone_id, instance=instance)
            servers.make_error(context, instance, error)

    locked()


def _build_of(context: Any, instance: Any) -> Build:
    return Build(context, instance, instance.image_meta, instance.get_network_info())
