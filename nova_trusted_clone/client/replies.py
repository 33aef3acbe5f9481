"""Untrusted JSON into values. Every complaint names its field.

Keys that are not known are passed over: a later API may say more. What is known has to be of its
kind and of a size. Texts are cleaned, since most of them end on somebody's terminal.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

from nova_trusted_clone.client.values import Attempt, Clone, Created, Progress
from nova_trusted_clone.core.attest import strict_json
from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol.evidence import FORMAT, MAX_EVIDENCE_BYTES
from nova_trusted_clone.core.terminal import clean

MOST_CLONES = 1000  # nova's own limit for a page of anything (max_limit)
MOST_ATTEMPTS = 100
MOST_ANCESTORS = 100
MOST_TEXT = 4096
MOST_NUMBER = 2**63 - 1
# A record with as many attempts as there may be, each with its whole reason.
MAX_RECORD_BYTES = 1024 * 1024
MAX_LIST_BYTES = 8 * 1024 * 1024
# The evidence's own limit, and as much again for escapes and white space.
MAX_EVIDENCE_REPLY_BYTES = 2 * MAX_EVIDENCE_BYTES


def created(data: bytes) -> Created:
    """Return what the action ``trustedClone`` answered.

    :raises MalformedInput: naming the field
    """
    body = _object(data, MAX_LIST_BYTES, "trusted_clones")
    where = "reply.trusted_clones"
    names = {
        _uuid(server, f"{where}.servers[{n}]", "id"): _text(
            server, f"{where}.servers[{n}]", "name", 255
        )
        for n, server in enumerate(_list(body, where, "servers", MOST_CLONES))
    }
    clones = tuple(
        _new(row, f"{where}.clones[{n}]", names)
        for n, row in enumerate(_list(body, where, "clones", MOST_CLONES))
    )
    if not clones or len({clone.id for clone in clones}) != len(clones):
        raise MalformedInput(f"{where}.clones: expected clones, each once")
    return Created(group=_text(body, where, "group", 64), nonce=_nonce(body, where), clones=clones)


def _new(row: Any, where: str, names: dict[str, str]) -> Clone:
    server = _uuid(row, where, "server_id")
    if server not in names:
        raise MalformedInput(f"{where}.server_id: {server} is not among reply.servers")
    return Clone(id=_uuid(row, where, "id"), server_id=server, name=names[server])


def _nonce(body: dict[str, Any], where: str) -> bytes:
    raw = _text(body, where, "nonce", 128)
    return strict_json.hexadecimal(raw, f"{where}.nonce", len(raw) // 2)


def records(data: bytes) -> tuple[tuple[Clone, ...], bool]:
    """Return the records of a page, and whether there is another.

    :raises MalformedInput: naming the field
    """
    body = strict_json.load(data, "reply", MAX_LIST_BYTES)
    rows = _list(body, "reply", "trusted_clones", MOST_CLONES)
    found = tuple(_record(row, f"reply.trusted_clones[{n}]") for n, row in enumerate(rows))
    links = body.get("trusted_clones_links") or []
    if not isinstance(links, list):
        raise MalformedInput("reply.trusted_clones_links: expected a list")
    return found, any(isinstance(link, dict) and link.get("rel") == "next" for link in links)


def record(data: bytes) -> Clone:
    """Return the one record.

    :raises MalformedInput: naming the field
    """
    return _record(_object(data, MAX_RECORD_BYTES, "trusted_clone"), "reply.trusted_clone")


def server_status(data: bytes) -> str:
    """Return the status in Nova's own description of a server.

    :raises MalformedInput: naming the field
    """
    return _text(_object(data, MAX_RECORD_BYTES, "server"), "reply.server", "status", 32)


def evidence(data: bytes) -> bytes:
    """Return the evidence as the bytes of a file, not judged.

    :raises MalformedInput: naming the field
    """
    body = _object(data, MAX_EVIDENCE_REPLY_BYTES, "evidence")
    if body.get("format") != FORMAT:
        raise MalformedInput(
            f"reply.evidence.format: found {str(body.get('format'))[:64]!r}, expected {FORMAT!r}"
        )
    file = json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
    if len(file) > MAX_EVIDENCE_BYTES:
        raise MalformedInput(
            f"reply.evidence: found {len(file)} bytes, expected at most {MAX_EVIDENCE_BYTES}"
        )
    return file


def _record(raw: Any, where: str) -> Clone:
    texts = {
        field: _text(raw, where, field, most, required=field in ("phase", "source_id"))
        for field, most in (
            ("name", 255),
            ("source_id", 36),
            ("phase", 32),
            ("reason", MOST_TEXT),
            ("code", 128),
            ("group", 64),
            ("freeze_id", 64),
            ("project_id", 255),
            ("source_host", 255),
            ("host", 255),
            ("vtpm", 16),
            ("memory", 16),
            ("nonce", 128),
            ("created_at", 64),
            ("updated_at", 64),
            ("completed_at", 64),
            ("request_id", 64),
        )
    }
    return Clone(
        id=_uuid(raw, where, "id"),
        server_id=_uuid(raw, where, "server_id"),
        progress=_progress(raw.get("progress"), f"{where}.progress"),
        pause_us=_number(raw, where, "pause_us"),
        attempts=_attempts(raw, where),
        lineage=_lineage(raw, where),
        **texts,
    )


def _progress(raw: Any, where: str) -> Progress:
    if raw is None:
        return Progress()
    whole = {
        field: _number(raw, where, field) or 0
        for field in ("pages_verified", "pages_total", "bytes_verified", "bytes_total")
    }
    return Progress(rate_bytes_s=_rate(raw, where), **whole)


def _attempts(raw: Any, where: str) -> tuple[Attempt, ...]:
    if raw.get("attempts") is None:
        return ()
    return tuple(
        Attempt(
            host=_text(row, f"{where}.attempts[{n}]", "host", 255, required=False),
            reason=_text(row, f"{where}.attempts[{n}]", "reason", MOST_TEXT, required=False),
            code=_text(row, f"{where}.attempts[{n}]", "code", 128, required=False),
            ended_at=_text(row, f"{where}.attempts[{n}]", "ended_at", 64, required=False),
        )
        for n, row in enumerate(_list(raw, where, "attempts", MOST_ATTEMPTS))
    )


def _lineage(raw: Any, where: str) -> tuple[str, ...]:
    if raw.get("lineage") is None:
        return ()
    return tuple(
        clean(strict_json.text(server, f"{where}.lineage[{n}]", 36))
        for n, server in enumerate(_list(raw, where, "lineage", MOST_ANCESTORS))
    )


def _object(data: bytes, limit: int, key: str) -> dict[str, Any]:
    body = strict_json.load(data, "reply", limit)
    if not isinstance(body.get(key), dict):
        raise MalformedInput(f"reply.{key}: expected an object")
    inner: dict[str, Any] = body[key]
    return inner


def _field(raw: Any, where: str, key: str) -> Any:
    if not isinstance(raw, dict):
        raise MalformedInput(f"{where}: found {type(raw).__name__}, expected an object")
    return raw.get(key)


def _list(raw: Any, where: str, key: str, most: int) -> list[Any]:
    value = _field(raw, where, key)
    if not isinstance(value, list) or len(value) > most:
        raise MalformedInput(f"{where}.{key}: expected a list of at most {most}")
    return value


def _text(raw: Any, where: str, key: str, most: int, *, required: bool = True) -> str:
    value = _field(raw, where, key)
    if value is None and not required:
        return ""
    return clean(strict_json.text(value, f"{where}.{key}", most))


def _number(raw: Any, where: str, key: str) -> int | None:
    value = _field(raw, where, key)
    if value is None:
        return None
    return strict_json.number(value, f"{where}.{key}", 0, MOST_NUMBER)


def _rate(raw: Any, where: str) -> float:
    value = _field(raw, where, "rate_bytes_s")
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedInput(f"{where}.rate_bytes_s: expected a number")
    if not 0 <= value <= MOST_NUMBER or not math.isfinite(value):
        raise MalformedInput(f"{where}.rate_bytes_s: expected a number that is not negative")
    return float(value)


def _uuid(raw: Any, where: str, key: str) -> str:
    value = _text(raw, where, key, 36)
    try:
        return str(uuid.UUID(value))
    except ValueError as error:
        raise MalformedInput(f"{where}.{key}: expected a UUID") from error
