"""What the messages' larger arguments and results look like."""

from __future__ import annotations

from nova_trusted_clone.rpc import checks

MAX_COUNT = 100
# A signed order: 16 KiB at most, and its signer's chain.
MAX_ORDER_BYTES = 64 * 1024
# A handshake message is 1 MiB at most (core.protocol.wire), in base64, and its envelope.
MAX_PEER_CHARACTERS = 2 * 1024 * 1024
MAX_STATUS_CHARACTERS = 256 * 1024
# As core.protocol.evidence: 4 MiB.
MAX_EVIDENCE_CHARACTERS = 4 * 1024 * 1024
NOTHING = checks.mapping({}, open_ended=True)
PHASES = (
    "scheduling",
    "claimed",
    "ordered",
    "attesting",
    "fetching",
    "restoring",
    "provisional",
    "complete",
    "failed",
    "aborted",
)
VTPM_MODES = ("new", "derive", "none")
MEMORY_MODES = ("lazy", "eager")

SIZE = checks.number(0, 1 << 56)
TIME_TEXT = checks.text(40)
CODE = checks.text(80)

inspection = checks.mapping(
    {
        "host_id": checks.host_id,
        "policy_sha256": checks.sha256,
        "memory_bytes": SIZE,
        "disks": checks.many(checks.row(checks.text(16, 1), SIZE), 64),
        "has_vtpm": checks.flag,
        "has_generation_id": checks.flag,
        "running": checks.flag,
        "obstacles": checks.many(checks.reason, 64),
    },
    {"vtpm_modes": checks.many(checks.choice(*VTPM_MODES), len(VTPM_MODES))},
    open_ended=True,
)

request = checks.mapping(
    {
        "group": checks.hex_id,
        "source_server": checks.server_uuid,
        "source_host": checks.host,
        "count": checks.number(1, MAX_COUNT),
        "vtpm": checks.choice(*VTPM_MODES),
        "memory": checks.choice(*MEMORY_MODES),
        "name": checks.text(255),
        "project_id": checks.account,
        "user_id": checks.account,
    },
    {
        "nonce": checks.optional(checks.hexadecimal(8, 64)),
        "request_id": checks.optional(checks.text(64)),
    },
)

named_server = checks.mapping({"server": checks.server_uuid, "name": checks.text(255)})
placed_order = checks.mapping({"order": checks.base64_text(MAX_ORDER_BYTES), "host": checks.host})

progress = checks.mapping(
    {},
    {
        "pages_verified": SIZE,
        "pages_total": SIZE,
        "bytes_verified": SIZE,
        "bytes_total": SIZE,
        "rate_bytes_s": SIZE,
    },
    open_ended=True,
)

status = checks.mapping(
    {"phase": checks.choice(*PHASES)},
    {
        "reason": checks.reason,
        "code": CODE,
        "progress": progress,
        "pause_us": checks.optional(checks.number(0, 1 << 40)),
    },
    open_ended=True,
)

filters = checks.mapping(
    {},
    {
        "server": checks.optional(checks.server_uuid),
        "project_id": checks.optional(checks.account),
        "source_server": checks.optional(checks.server_uuid),
        "group": checks.optional(checks.hex_id),
        "phase": checks.optional(checks.choice(*PHASES)),
        "limit": checks.optional(checks.number(1, 1000)),
        "marker": checks.optional(checks.server_uuid),
    },
)

attempt = checks.mapping(
    {
        "attempt_id": checks.hex_id,
        "host": checks.host,
        "reason": checks.optional(checks.reason),
        "code": checks.optional(CODE),
        "ended_at": checks.optional(TIME_TEXT),
    },
    open_ended=True,
)

record = checks.mapping(
    {
        "id": checks.server_uuid,
        "attempt_id": checks.optional(checks.hex_id),
        "group": checks.hex_id,
        "freeze_id": checks.optional(checks.hex_id),
        "name": checks.text(255),
        "server_id": checks.server_uuid,
        "source_id": checks.server_uuid,
        "project_id": checks.account,
        "user_id": checks.account,
        "source_host": checks.host,
        "host": checks.optional(checks.host),
        "phase": checks.choice(*PHASES),
        "reason": checks.optional(checks.reason),
        "code": checks.optional(CODE),
        "vtpm": checks.choice(*VTPM_MODES),
        "memory": checks.choice(*MEMORY_MODES),
        "nonce": checks.hexadecimal(8, 64),
        "lineage": checks.many(checks.server_uuid, 64),
        "progress": progress,
        "pause_us": checks.optional(checks.number(0, 1 << 40)),
        "attempts": checks.many(attempt, 64),
        "created_at": TIME_TEXT,
        "updated_at": TIME_TEXT,
        "completed_at": checks.optional(TIME_TEXT),
        "request_id": checks.optional(checks.text(64)),
    },
    open_ended=True,
)
records = checks.many(record, 1000)
