"""A clone conductor that works, and an engine that says what it is told to say."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from nova_trusted_clone.clone.incoming import Rejected
from nova_trusted_clone.clone.source import FreezeFailed
from nova_trusted_clone.rpc.errors import CloneError, Unavailable

SERVER = "b5b0a1f4-52a5-4a3a-9d0e-5f8c2f3c0001"
GROUP, CLONE, FREEZE = "a" * 32, "c" * 32, "f" * 32


class Conductor:
    """Remembers what it heard; is away, or refuses, when told so."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, Mapping[str, Any]]] = []
        self.completed: dict[str, Mapping[str, Any]] = {}
        self.failed: list[dict[str, Any]] = []
        self.away = False
        self.refuses: CloneError | None = None

    def _heard(self) -> None:
        if self.away:
            raise Unavailable("no answer within 30 s")
        if self.refuses is not None:
            raise self.refuses

    def report(self, context: Any, clone_id: str, status: Mapping[str, Any]) -> None:
        self._heard()
        self.reports.append((clone_id, status))

    def complete(self, context: Any, clone_id: str, evidence: Mapping[str, Any]) -> None:
        self._heard()
        self.completed[clone_id] = evidence

    def fail(
        self,
        context: Any,
        group: str,
        server: str,
        clone_id: str | None,
        reason: str,
        code: str,
        *,
        retry: bool,
    ) -> None:
        self._heard()
        self.failed.append(
            {
                "group": group,
                "server": server,
                "clone_id": clone_id,
                "reason": reason,
                "code": code,
                "retry": retry,
            }
        )


class Destination:
    """Clones by their id, and what was asked of them."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.answer: Exception | bytes = b"answer"

    def put(self, phase: str, **further: Any) -> dict[str, Any]:
        status = {
            "clone_id": CLONE,
            "server": SERVER,
            "phase": phase,
            "reason": "",
            "code": "",
            **further,
        }
        self.known[str(status["clone_id"])] = status
        return status

    def clones(self) -> list[dict[str, Any]]:
        return list(self.known.values())

    def status(self, clone_id: str) -> dict[str, Any]:
        if clone_id not in self.known:
            raise Rejected(f"no clone {clone_id} is expected here")
        return self.known[clone_id]

    def of_server(self, server_uuid: str) -> dict[str, Any] | None:
        return next((s for s in self.known.values() if s["server"] == server_uuid), None)

    def message(self, clone_id: str, data: bytes, hints: Mapping[str, Any]) -> bytes:
        self.asked.append(("message", clone_id, data, hints.get("bulk")))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def begin_early(self, clone_id: str, disks: list[str], hints: Mapping[str, Any]) -> None:
        self.asked.append(("early", clone_id, disks, hints.get("bulk")))

    def end(self, clone_id: str, reason: str, code: str = "") -> None:
        self.status(clone_id)
        self.asked.append(("end", clone_id, reason, code))

    def forget(self, server_uuid: str, reason: str) -> None:
        self.asked.append(("forget", server_uuid, reason))


class Source:
    """One freeze, when it was started."""

    def __init__(self) -> None:
        self.started: list[list[tuple[bytes, str]]] = []
        self.aborted: list[tuple[str, str | None, str]] = []

    def status(self, group: str) -> dict[str, Any]:
        if not self.started:
            raise FreezeFailed(f"no freeze {group} here")
        return {"group": group}

    def clone(self, orders: list[tuple[bytes, str]]) -> str:
        self.started.append(list(orders))
        return FREEZE

    def abort(self, group: str, clone_id: str | None, reason: str) -> None:
        self.status(group)
        self.aborted.append((group, clone_id, reason))


@dataclasses.dataclass
class Engine:
    """Both of them."""

    source: Source = dataclasses.field(default_factory=Source)
    destination: Destination = dataclasses.field(default_factory=Destination)

    def has_clone(self, clone_id: str) -> bool:
        return clone_id in self.destination.known

    def has_freeze(self, freeze_id: str) -> bool:
        return bool(self.source.started)

    def clone(self, context: Any, orders: list[tuple[bytes, str]]) -> str:
        return self.source.clone(orders)


class Service:
    """A host that can clone, or says why it cannot."""

    def __init__(self, engine: Engine, why_not: CloneError | None = None) -> None:
        self._engine, self._why_not = engine, why_not

    def require(self) -> Engine:
        if self._why_not is not None:
            raise self._why_not
        return self._engine


def keep_evidence(state: pathlib.Path, clone_id: str = CLONE) -> dict[str, str]:
    """As the engine keeps it."""
    evidence = {"version": "1"}
    directory = state / "clones" / clone_id
    directory.mkdir(parents=True)
    (directory / "evidence.json").write_text(json.dumps(evidence))
    return evidence
