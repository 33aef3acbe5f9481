"""What nova says of a server, wherever its cell is.

Leans on nova.objects (InstanceMapping, Instance, InstanceFault) and nova.context.target_cell, as nova's
own conductor does. Needs nova's [api_database]; without it only time ends a clone whose server nova gave up.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Protocol

import sqlalchemy.exc
from nova import context as nova_context
from nova import exception, objects
from nova.compute import vm_states
from oslo_db import exception as db_error
from oslo_log import log as logging

LOG = logging.getLogger(__name__)


class Word(enum.Enum):
    """What nova says."""

    GOES_ON = "goes on"
    GAVE_UP = "gave up"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Said:
    """Nova's word on a server, and for one that it gave up its fault."""

    word: Word
    fault: str = ""


class Servers(Protocol):
    """Whom to ask."""

    def ask(self, server_id: str) -> Said:
        """Return what nova says of a server; never raises."""


class NoServers:
    """For a conductor that may not ask nova."""

    def ask(self, server_id: str) -> Said:
        """Return that nothing is known."""
        return Said(Word.UNKNOWN)


class NovaServers:
    """Asks nova's databases."""

    def ask(self, server_id: str) -> Said:
        """Return what nova says of a server; that it cannot be asked now is :attr:`Word.UNKNOWN`."""
        context = nova_context.get_admin_context(read_deleted="yes")
        try:
            return _read(context, server_id)
        except (db_error.DBError, sqlalchemy.exc.SQLAlchemyError, exception.NovaException) as error:
            LOG.warning("server %s: nova could not be asked: %s", server_id, error)
            return Said(Word.UNKNOWN)


def _read(context: Any, server_id: str) -> Said:
    """Return nova's word. A server is gone only where nova itself says that it was deleted: one that cannot be
    found may be on
    its way from the API to a cell.
    """
    try:
        mapping = objects.InstanceMapping.get_by_instance_uuid(context, server_id)
    except exception.InstanceMappingNotFound:
        return Said(Word.UNKNOWN)
    if mapping.cell_mapping is None:
        return Said(Word.GONE if mapping.queued_for_delete else Word.GOES_ON)
    with nova_context.target_cell(context, mapping.cell_mapping) as cell:
        try:
            instance = objects.Instance.get_by_uuid(cell, server_id, expected_attrs=[])
        except exception.InstanceNotFound:
            return Said(Word.GONE if mapping.queued_for_delete else Word.UNKNOWN)
        if instance.deleted or instance.vm_state in (vm_states.DELETED, vm_states.SOFT_DELETED):
            return Said(Word.GONE)
        if instance.vm_state == vm_states.ERROR:
            fault = objects.InstanceFault.get_latest_for_instance(cell, server_id)
            return Said(Word.GAVE_UP, fault.message if fault else "")
    return Said(Word.GOES_ON)
