"""Rows to values, and values to rows."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from nova_trusted_clone.db import models
from nova_trusted_clone.objects.clone import (
    Attempt,
    Clone,
    Freeze,
    FreezeState,
    Group,
    GroupState,
    Phase,
)

CHANGING = (
    "phase",
    "reason",
    "code",
    "host",
    "attempt_id",
    "freeze_id",
    "progress",
    "pause_us",
    "heard_at",
    "updated_at",
    "completed_at",
)
"""What of a clone's record changes; all else is as it was made."""


def to_group(row: models.GroupRecord) -> Group:
    """Return a group's value."""
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(Group)}
    return Group(**{**values, "state": GroupState(row.state)})


def from_group(group: Group) -> models.GroupRecord:
    """Return a new row."""
    return models.GroupRecord(**_columns(group))


def to_clone(row: models.CloneRecord) -> Clone:
    """Return a clone's value."""
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(Clone)}
    values["phase"] = Phase(row.phase)
    values["lineage"] = tuple(json.loads(row.lineage))
    values["progress"] = json.loads(row.progress) if row.progress else {}
    return Clone(**values)


def from_clone(clone: Clone) -> models.CloneRecord:
    """Return a new row."""
    return models.CloneRecord(**_columns(clone))


def apply(clone: Clone, row: models.CloneRecord) -> None:
    """Bring a row to a clone's value."""
    columns = _columns(clone)
    for name in CHANGING:
        if getattr(row, name) != columns[name]:
            setattr(row, name, columns[name])


def to_attempt(row: models.AttemptRecord, *, with_order: bool = False) -> Attempt:
    """Return an attempt's value; its order, which is large, only when it is asked for."""
    return Attempt(
        id=row.id,
        group_id=row.group_id,
        server_id=row.server_id,
        host=row.host,
        host_id=row.host_id,
        is_open=row.is_open is not None,
        claimed_at=row.claimed_at,
        freeze_id=row.freeze_id,
        order=row.signed_order if with_order else None,
        reason=row.reason,
        code=row.code,
        ended_at=row.ended_at,
    )


def from_attempt(attempt: Attempt) -> models.AttemptRecord:
    """Return a new row."""
    columns = _columns(attempt)
    columns["signed_order"] = columns.pop("order")
    columns["is_open"] = 1 if attempt.is_open else None
    return models.AttemptRecord(**columns)


def to_freeze(row: models.FreezeRecord) -> Freeze:
    """Return a freeze's value."""
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(Freeze)}
    return Freeze(**{**values, "state": FreezeState(row.state)})


def from_freeze(freeze: Freeze) -> models.FreezeRecord:
    """Return a new row."""
    return models.FreezeRecord(**_columns(freeze))


def _columns(value: Any) -> dict[str, Any]:
    columns = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    columns.pop("revision", None)  # SQLAlchemy counts it
    for name, content in columns.items():
        if isinstance(content, tuple | dict):
            columns[name] = json.dumps(content)
        elif hasattr(content, "value"):
            columns[name] = content.value
    return columns
