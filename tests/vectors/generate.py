"""Writes the frozen exchanges: ``python -m tests.vectors.generate``.

Run it only for a new wire version, into new files: what is here was sent by released code, and must stay readable.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from nova_trusted_clone.core.protocol import actions, events, transcript
from nova_trusted_clone.core.protocol.messages import Answer, Challenge, Counts
from nova_trusted_clone.core.protocol.order import Order
from tests.unit.core.world import COUNTS, REGIONS, Exchange, World, pem

HERE = pathlib.Path(__file__).parent


def exchange(mode: str) -> Exchange:
    """One complete exchange of a vTPM mode."""
    world = World(vtpm_mode=mode, allow_without_vtpm=True, allow_vtpm_derive=True)
    if mode != "derive":
        return Exchange(world).run(with_vtpm=mode == "new")
    made = Exchange(world)
    made.start()
    made.freeze(regions=(*REGIONS, (6, "vtpm", "vtpm", 9000)))
    assert made.source_vtpm is not None
    made.vtpm = world.right.vtpm("derived")
    made.vtpm.tpm.pcrs = dict(made.source_vtpm.tpm.pcrs)
    made.feed("destination", events.VtpmInstalled(made.vtpm.identity("derive")))
    counts = Counts(COUNTS.segments + 1, COUNTS.leaves + 3, COUNTS.zero_leaves, COUNTS.bytes + 9000)
    made.transfer(counts=counts)
    made.finish(counts=counts)
    return made


def transcript_of(order_bytes: bytes, messages: dict[str, bytes]) -> dict[str, str]:
    """The data that everything is bound to."""
    order = Order.decode(order_bytes)
    one, two = Challenge.decode(messages["challenge"]), Answer.decode(messages["answer"])
    t1 = transcript.first(order_bytes, order, one.nonce, one.channel_certificate)
    t2 = transcript.second(t1, two.nonce, two.channel_certificate)
    return {"t1": t1.hex(), "t2": t2.hex()}


def vector(mode: str) -> dict[str, Any]:
    """Everything that a verifier needs, as JSON."""
    made = exchange(mode)
    (done,) = made.actions("source", actions.Completed)
    asked = made.actions("source", actions.MakeQuote) + made.actions(
        "destination", actions.MakeQuote
    )
    world = made.world
    return {
        "anchors": pem(*world.authorities.roots.values()).decode(),
        "policy": world.policy_json.decode(),
        "tenant_nonce": world.order.tenant_nonce.hex(),
        "order": world.signed.order_bytes.hex(),
        "accepted": made.messages["accepted"].hex(),
        "transcript": transcript_of(world.signed.order_bytes, made.messages),
        "qualifying_data": {action.purpose: action.qualifying_data.hex() for action in asked},
        "evidence": done.evidence,
    }


def main() -> None:
    """Write one file for each vTPM mode."""
    for mode in ("new", "derive", "none"):
        path = HERE / f"exchange-1-{mode}.json"
        path.write_text(json.dumps(vector(mode), indent=1) + "\n")


if __name__ == "__main__":
    main()
