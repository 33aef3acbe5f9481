"""The notification of a clone's record. Nothing of a token, a nonce or evidence is in it."""

from __future__ import annotations

from typing import Any

from nova.notifications.objects import base
from nova.objects import base as nova_base
from nova.objects import fields
from oslo_log import log as logging

from nova_trusted_clone.objects.clone import Clone, Phase

LOG = logging.getLogger(__name__)

START, END, ERROR = "start", "end", "error"


@nova_base.NovaObjectRegistry.register_notification
class TrustedClonePayload(base.NotificationPayloadBase):  # type: ignore[misc]
    """A record. Version 1.0: first version."""

    VERSION = "1.0"
    SCHEMA = {  # noqa: RUF012
        "uuid": ("clone", "id"),
        "group": ("clone", "group_id"),
        "name": ("clone", "name"),
        "server_uuid": ("clone", "server_id"),
        "source_uuid": ("clone", "source_id"),
        "freeze_id": ("clone", "freeze_id"),
        "tenant_id": ("clone", "project_id"),
        "user_id": ("clone", "user_id"),
        "request_id": ("clone", "request_id"),
        "source_host": ("clone", "source_host"),
        "host": ("clone", "host"),
        "phase": ("clone", "phase"),
        "vtpm": ("clone", "vtpm"),
        "memory": ("clone", "memory"),
        "pause_us": ("clone", "pause_us"),
        "code": ("clone", "code"),
        "reason": ("clone", "reason"),
        "created_at": ("clone", "created_at"),
        "completed_at": ("clone", "completed_at"),
    }
    fields = {  # noqa: RUF012
        "uuid": fields.UUIDField(),
        "group": fields.StringField(),
        "name": fields.StringField(),
        "server_uuid": fields.UUIDField(),
        "source_uuid": fields.UUIDField(),
        "freeze_id": fields.StringField(nullable=True),
        "tenant_id": fields.StringField(),
        "user_id": fields.StringField(),
        "request_id": fields.StringField(nullable=True),
        "source_host": fields.StringField(),
        "host": fields.StringField(nullable=True),
        "phase": fields.StringField(),
        "vtpm": fields.StringField(),
        "memory": fields.StringField(),
        "pause_us": fields.IntegerField(nullable=True),
        "code": fields.StringField(nullable=True),
        "reason": fields.StringField(nullable=True),
        "created_at": fields.DateTimeField(),
        "completed_at": fields.DateTimeField(nullable=True),
    }

    def __init__(self, clone: Clone) -> None:
        super().__init__()
        self.populate_schema(clone=clone)


@base.notification_sample("trusted_clone-create-start.json")
@base.notification_sample("trusted_clone-create-end.json")
@base.notification_sample("trusted_clone-create-error.json")
@nova_base.NovaObjectRegistry.register_notification
class TrustedCloneNotification(base.NotificationBase):  # type: ignore[misc]
    """What happened to a record. Version 1.0: first version."""

    VERSION = "1.0"
    fields = {"payload": fields.ObjectField("TrustedClonePayload")}  # noqa: RUF012


def phase_of(before: Clone, after: Clone) -> str | None:
    """Return the notification that a move of a record is; None when it is none.

    A clone that is begun again on another host is begun again here too.
    """
    if before.phase is after.phase:
        return None
    if after.phase is Phase.ORDERED:
        return START
    if after.phase is Phase.COMPLETE:
        return END
    return ERROR if after.phase in (Phase.FAILED, Phase.ABORTED) else None


def notify(context: Any, host: str, before: Clone, after: Clone) -> None:
    """Tell of a move, where nova's notifications are on. That it could not be told is logged: the clone goes on.

    :param host: nova's name of this machine
    """
    phase = phase_of(before, after)
    if phase is None:
        return
    notification = TrustedCloneNotification(
        priority=fields.NotificationPriority.ERROR
        if phase == ERROR
        else fields.NotificationPriority.INFO,
        publisher=base.NotificationPublisher(host=host, source=fields.NotificationSource.CONDUCTOR),
        event_type=base.EventType(
            object="trusted_clone", action=fields.NotificationAction.CREATE, phase=phase
        ),
        payload=TrustedClonePayload(after),
    )
    try:
        notification.emit(context)
    except Exception:
        LOG.exception("clone %s: its notification could not be sent", after.id)
