"""Evidence, verified by the conductor itself and offline before a clone counts as complete.

It must hold by every check that a tenant makes, for the operator's anchors, the policy that the order named and the
tenant's nonce; and it must be about exactly the order that was signed for this attempt.
"""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol.evidence import verify_evidence
from nova_trusted_clone.core.protocol.messages import Challenge
from nova_trusted_clone.rpc.errors import MAX_TEXT, Refused, Unavailable

REFUSED = "trusted-clone.evidence.refused"


def verify(
    content: Mapping[str, Any],
    signed_order: bytes,
    nonce: str,
    anchors_file: pathlib.Path,
    policy: bytes,
) -> dict[str, Any]:
    """Return the evidence's summary.

    :param content: untrusted, as it came
    :param signed_order: what was signed for this attempt
    :param policy: the file that the order named
    :raises Refused: naming every check that failed
    :raises Unavailable: when the operator's own files cannot be used
    """
    try:
        anchors = TrustAnchors.from_pem(anchors_file.read_bytes())
        rules = Policy.parse(policy)
    except (OSError, CoreError) as error:
        raise Unavailable(f"evidence cannot be verified here: {error}") from error
    data = json.dumps(content).encode()
    verdict, summary = verify_evidence(data, anchors, rules, bytes.fromhex(nonce))
    if summary is None:
        failures = "; ".join(str(check) for check in verdict.failures)
        raise Refused(f"the evidence does not hold: {failures}"[:MAX_TEXT], REFUSED)
    # Its own order was judged; what is left to ask is whether that is the one of this attempt.
    challenge = Challenge.decode(base64.b64decode(content["messages"]["challenge"]))
    if challenge.order != signed_order:
        raise Refused(
            f"the evidence is of another order: clone {summary['clone_id']}, "
            f"server {summary['destination_server']}, issued at {summary['issued_at']}",
            "trusted-clone.evidence.other-order",
        )
    return summary
