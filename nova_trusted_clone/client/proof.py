"""Evidence judged offline: by what the tenant brings, not by what the cloud says."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import Any

from nova_trusted_clone.core.attest.certchain import MAX_BUNDLE_BYTES, TrustAnchors
from nova_trusted_clone.core.attest.policy import MAX_POLICY_BYTES, Policy
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.protocol.evidence import MAX_EVIDENCE_BYTES, Part, verify_parts


@dataclasses.dataclass(frozen=True)
class Grounds:
    """What a judgement stands on: the operator's roots and the policy of that time."""

    anchors: TrustAnchors
    policy: Policy

    @classmethod
    def from_files(cls, anchors: pathlib.Path, policy: pathlib.Path) -> Grounds:
        """Read both.

        :raises OSError: if a file cannot be read
        :raises MalformedInput: naming what is wrong in it
        """
        return cls(
            TrustAnchors.from_pem(read(anchors, MAX_BUNDLE_BYTES)),
            Policy.parse(read(policy, MAX_POLICY_BYTES)),
        )


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Every check that was made, and what the evidence is about if it holds.

    :ivar parts: the same checks by the message that they are about
    """

    verdict: Verdict
    summary: dict[str, Any] | None
    parts: tuple[Part, ...] = ()


def judge(
    data: bytes,
    grounds: Grounds,
    nonce: bytes,
    *,
    source_id: str | None = None,
    server_id: str | None = None,
) -> Judgement:
    """Judge evidence.

    :param nonce: the tenant's own, as it went with the request
    :param source_id: the server that it has to be a clone of, if the tenant knows
    :param server_id: the server that has to be the clone
    """
    parts, summary = verify_parts(data, grounds.anchors, grounds.policy, nonce)
    if summary is not None:
        parts = (*parts, Part("file", _expected(summary, source_id, server_id)))
    verdict = Verdict.joined(part.verdict for part in parts)
    return Judgement(verdict, summary if verdict.ok else None, parts)


def _expected(summary: dict[str, Any], source_id: str | None, server_id: str | None) -> Verdict:
    verdict = Verdict()
    if source_id is not None:
        verdict += Verdict.equal(
            "trusted-clone.evidence.expected-source", summary["source_server"], source_id
        )
    if server_id is not None:
        verdict += Verdict.equal(
            "trusted-clone.evidence.expected-clone", summary["destination_server"], server_id
        )
    return verdict


def read(path: pathlib.Path, limit: int = MAX_EVIDENCE_BYTES) -> bytes:
    """Return a file's bytes, of which there may be ``limit``.

    :raises OSError: if it cannot be read
    :raises MalformedInput: if it is longer
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise MalformedInput(f"{path}: it has more than {limit} bytes")
    return data


def write(file: pathlib.Path, data: bytes) -> None:
    """Write a new file whole.

    :raises FileExistsError: rather than overwrite
    """
    with file.open("xb") as out:
        try:
            out.write(data)
        except BaseException:
            # Half of it would look like evidence that somebody has changed.
            with contextlib.suppress(OSError):
                file.unlink()
            raise
