"""Nova's record of a server that is a clone: its marks, whether it is still wanted, and what becomes of it.

Leans on nova.objects.Instance (through nova-conductor: nova-compute has no database) and nova.compute.utils.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import nova.conf
from nova import context as nova_context
from nova import exception, objects, utils
from nova.compute import power_state, task_states, vm_states
from nova.compute import utils as compute_utils
from nova.virt import configdrive
from oslo_log import log as logging
from oslo_utils import timeutils

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

# Keys of an instance's system_metadata. The first two are the API's; a server that has the third is an ordinary one.
GROUP, SOURCE = "trusted_clone_group", "trusted_clone_source"
DONE = "trusted_clone_done"
# Whose content the config drive has, as long as it is not this server's own.
CONFIG_DRIVE = "trusted_clone_config_drive"

_GROUP = re.compile(r"[0-9a-f]{32}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DELETING = (task_states.DELETING, task_states.SOFT_DELETING)


class CloneFailed(exception.NovaException):  # type: ignore[misc]
    """The fault of a server whose clone failed."""

    msg_fmt = "The clone failed: %(reason)s"


@dataclasses.dataclass(frozen=True)
class Mark:
    """What the API wrote onto a server that is to be a clone."""

    group: str
    source: str


def mark_of(instance: Any) -> Mark | None:
    """The mark of a server that is to be received as a clone now: not of one that was received before.

    It stays on the server for ever, and ``spawn()`` comes again with a rebuild, an evacuation or an unshelving.

    :raises BuildAbortException: when there is a mark that cannot be read
    """
    metadata = instance.system_metadata
    if GROUP not in metadata or DONE in metadata or instance.vm_state != vm_states.BUILDING:
        return None
    mark = Mark(str(metadata[GROUP]), str(metadata.get(SOURCE, "")))
    if not _GROUP.fullmatch(mark.group) or not _UUID.fullmatch(mark.source):
        raise exception.BuildAbortException(
            instance_uuid=instance.uuid,
            reason=f"{GROUP} or {SOURCE} in its system metadata is malformed",
        )
    return mark


def require_wanted(context: Any, server: str) -> None:
    """Look whether a server that is being built is still wanted.

    :raises InstanceNotFound: when it was deleted, or is being deleted: Nova waits with that until the build has ended
    """
    instance = objects.Instance.get_by_uuid(context, server, expected_attrs=[])
    if instance.task_state in DELETING:
        raise exception.InstanceNotFound(instance_id=server)


def is_wanted(context: Any, server: str) -> bool:
    """Whether a server that is being built is neither deleted nor being deleted."""
    try:
        require_wanted(context, server)
    except exception.InstanceNotFound:
        return False
    return True


def make_done(instance: Any, clone_id: str, *, foreign_config_drive: bool) -> None:
    """Mark a received clone as the ordinary server that it is from now on."""
    instance.system_metadata[DONE] = clone_id
    if foreign_config_drive:
        instance.system_metadata[CONFIG_DRIVE] = "source"
    instance.save()


def make_active(instance: Any, state: int) -> None:
    """Finish a build that a restart of nova-compute interrupted, as ``ComputeManager._update_instance_after_spawn`` does."""
    instance.power_state = state
    instance.vm_state = vm_states.ACTIVE
    instance.task_state = None
    configdrive.update_instance(instance)
    instance.launched_at = timeutils.utcnow()
    instance.save()


def make_error(context: Any, instance: Any, error: Exception) -> None:
    """Set a server to ERROR, with a fault that says why."""
    instance.vm_state = vm_states.ERROR
    instance.task_state = None
    instance.power_state = power_state.NOSTATE
    instance.save()
    compute_utils.add_instance_fault_from_exc(context, instance, error, sys.exc_info())


def clone_failed(server: str, clone_id: str, reason: str) -> None:
    """Set a server to ERROR whose clone failed after it had begun to run.

    A server that was deleted, moved or built anew meanwhile is left alone. Nova's own lock of the server is held, so that this
    comes after whatever Nova is doing with it.
    """
    context = nova_context.get_admin_context()

    @utils.synchronized(server)  # type: ignore[untyped-decorator]
    def locked() -> None:
        try:
            instance = objects.Instance.get_by_uuid(
                context, server, expected_attrs=["system_metadata"]
            )
        except exception.InstanceNotFound:
            LOG.info("server %s, whose clone failed, was deleted", server)
            return
        gone = instance.task_state in DELETING or instance.vm_state in (
            vm_states.DELETED,
            vm_states.SOFT_DELETED,
        )
        if gone or instance.host != CONF.host or instance.system_metadata.get(DONE) != clone_id:
            return
        make_error(context, instance, CloneFailed(reason=reason))

    locked()


def group_of(server: str) -> str | None:
    """The group in which a server was cloned, of a deleted one too."""
    context = nova_context.get_admin_context(read_deleted="yes")
    try:
        instance = objects.Instance.get_by_uuid(context, server, expected_attrs=["system_metadata"])
    except exception.InstanceNotFound:
        return None
    group = str(instance.system_metadata.get(GROUP, ""))
    return group if _GROUP.fullmatch(group) else None
