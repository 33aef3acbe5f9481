"""Attacks on the exchange; each is refused by the check that is meant for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from nova_trusted_clone.core.attest import eventlog, issue
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.protocol import actions, events, messages
from nova_trusted_clone.core.protocol.messages import Counts
from nova_trusted_clone.core.protocol.order import SignedOrder
from nova_trusted_clone.core.protocol.replay import MemoryReplayGuard
from nova_trusted_clone.core.protocol.session import LocalHost
from nova_trusted_clone.core.protocol.wire import Message
from tests.unit.core.software_tpm import SoftwareTpm, key_from
from tests.unit.core.world import (
    COUNTS,
    MIB,
    NOW,
    REGIONS,
    ROOT,
    TIMES,
    Authorities,
    Exchange,
    Machine,
    World,
    digest,
)

KINDS: dict[str, type[Message]] = {
    "challenge": messages.Challenge,
    "answer": messages.Answer,
    "confirmation": messages.Confirmation,
    "vtpm-statement": messages.VtpmStatement,
    "page-key-by-vtpm": messages.PageKeyByVtpm,
    "final": messages.Final,
    "receipt": messages.Receipt,
}


def on(name: str, change: Callable[[bytes], bytes]) -> Callable[[str, bytes], bytes]:
    """A network that changes one message."""
    return lambda found, data: change(data) if found == name else data


def with_fields(name: str, **fields: Any) -> Callable[[str, bytes], bytes]:
    """A network that changes fields of one message."""
    return on(name, lambda data: dataclasses.replace(KINDS[name].decode(data), **fields).encode())


def with_vtpm(name: str, **fields: Any) -> Callable[[str, bytes], bytes]:
    """A network that changes fields of the vTPM within a message."""

    def change(data: bytes) -> bytes:
        message: Any = KINDS[name].decode(data)
        proof = dataclasses.replace(message.vtpm, **fields)
        return dataclasses.replace(message, vtpm=proof).encode()  # type: ignore[no-any-return]

    return on(name, change)


def attacked(tamper: Callable[[str, bytes], bytes], world: World | None = None) -> Exchange:
    """Run as far as it goes; the attack must have ended it on one side."""
    exchange = Exchange(world or World(), tamper)
    for step in (exchange.start, exchange.freeze, exchange.transfer, exchange.finish):
        step()
        if exchange.actions("source", actions.Refused) or exchange.actions(
            "destination", actions.Refused
        ):
            break
    assert not exchange.actions("source", actions.Completed)
    return exchange


RECORDED = Exchange(World()).run().messages
SECOND = Exchange(
    World(clone_id=digest("another clone")[:16], destination_server=digest("other server")[:16])
).run()


@pytest.mark.parametrize(
    ("name", "side", "failed"),
    [
        ("challenge", "destination", "trusted-clone.order.same"),
        ("answer", "source", "trusted-clone.quote.stale"),
        ("confirmation", "destination", "trusted-clone.quote.stale"),
        ("vtpm-statement", "source", "trusted-clone.quote.stale"),
        ("page-key-by-vtpm", "destination", "trusted-clone.quote.stale"),
        ("final", "destination", "trusted-clone.quote.stale"),
        ("receipt", "source", "trusted-clone.quote.stale"),
    ],
)
def test_a_message_of_another_session_is_refused(name: str, side: str, failed: str) -> None:
    exchange = attacked(on(name, lambda data: SECOND.messages[name]))
    assert failed in exchange.failures(side)


def test_a_replayed_first_message_is_refused() -> None:
    """The destination was restarted in between, or it is another session: the clone's id was
    used."""
    world = World()
    Exchange(world).run()
    again = world.destination()
    again.handle(events.Start(NOW, digest("fresh n2")))
    (refused,) = again.handle(events.MessageReceived(RECORDED["challenge"], NOW))
    assert isinstance(refused, actions.Refused)
    assert [c.code for c in refused.verdict.failures] == ["trusted-clone.replay.clone"]


def test_a_clone_id_is_not_used_up_by_who_cannot_prove_itself() -> None:
    world = World()
    attacked(with_fields("challenge", nonce=bytes(32)), world)
    assert Exchange(world).run().actions("source", actions.Completed)


def test_the_guard_forgets_the_oldest_only() -> None:
    guard = MemoryReplayGuard(2)
    assert [guard.first_use("clone", value) for value in (b"a", b"b", b"a", b"c", b"b", b"a")] == [
        True, True, False, True, False, True,
    ]  # fmt: skip


def test_a_reflected_message_is_refused() -> None:
    exchange = attacked(on("answer", lambda data: RECORDED["challenge"]))
    assert exchange.failures("source") == ["trusted-clone.message.kind"]


def test_a_reflected_quote_is_refused() -> None:
    """The source's own quote, in a message of the destination's form."""
    world = World()
    own = messages.Challenge.decode(Exchange(world).run().messages["challenge"])
    exchange = attacked(with_fields("answer", quote=own.quote, ak_public=own.ak_public))
    assert "trusted-clone.quote.stale" in exchange.failures("source")
    assert "trusted-clone.host.ak-ordered" in exchange.failures("source")


@pytest.mark.parametrize(("name", "side"), [("challenge", "destination"), ("answer", "source")])
def test_another_channel_end_is_refused(name: str, side: str) -> None:
    exchange = attacked(with_fields(name, channel_certificate=b"mallory's"))
    assert exchange.failures(side) == ["trusted-clone.quote.stale"]
    assert not exchange.actions(side, actions.OpenChannel)


@pytest.mark.parametrize(
    ("name", "side"),
    [("challenge", "destination"), ("answer", "source"), ("confirmation", "destination")],
)
def test_another_nonce_is_refused(name: str, side: str) -> None:
    exchange = attacked(with_fields(name, nonce=bytes(32)))
    assert exchange.failures(side) == ["trusted-clone.quote.stale"]


def test_a_relay_to_another_host_is_refused() -> None:
    """A cuckoo: a third, certified host of the same cloud answers in the destination's place."""
    world = World()
    third = Machine("third", world.authorities)

    def change(data: bytes) -> bytes:
        answer = messages.Answer.decode(data)
        local = third.local
        return dataclasses.replace(
            answer, ak_chain=local.ak_chain, ak_public=local.ak_public, event_log=local.event_log
        ).encode()

    exchange = attacked(on("answer", change), world)
    assert {
        "trusted-clone.host.id",
        "trusted-clone.host.ak-ordered",
        "trusted-clone.quote.signature",
    } <= set(exchange.failures("source"))


def test_an_answer_signed_by_another_tpm_is_refused() -> None:
    world = World()
    mallory = SoftwareTpm(key_from("mallory"), pcrs=dict(world.right.tpm.pcrs))
    exchange = Exchange(world, destination_tpm=mallory)
    exchange.start()
    assert exchange.failures("source") == [
        "trusted-clone.quote.signature",
        "trusted-clone.quote.signer",
    ]


def test_a_substituted_ak_is_refused() -> None:
    """Mallory's AK beside the host's certificate, and a quote by Mallory's AK."""
    world = World()
    mallory = SoftwareTpm(key_from("mallory"), pcrs=dict(world.right.tpm.pcrs))
    exchange = Exchange(
        world, with_fields("answer", ak_public=mallory.ak_public), destination_tpm=mallory
    )
    exchange.start()
    assert exchange.failures("source") == [
        "trusted-clone.host.ak-certified",
        "trusted-clone.host.ak-ordered",
        "trusted-clone.host.ak-key",
    ]


def test_a_certificate_of_another_cloud_is_refused() -> None:
    foreign = Machine("right", Authorities("foreign"))
    exchange = attacked(with_fields("answer", ak_chain=(foreign.ak_cert,)))
    assert exchange.failures("source") == ["trusted-clone.certificate.anchor"]


def test_a_destination_whose_firmware_changed_is_refused() -> None:
    world = World()
    events_of_boot = [*eventlog.parse(world.right.log), eventlog.Event(0, 1, digest("evil"))]
    log = eventlog.build(events_of_boot)
    world.right.tpm.extend([(0, digest("evil"))])
    local = dataclasses.replace(world.right.local, event_log=log)
    exchange = Exchange(world, destination=world.destination(settings=local))
    exchange.start()
    assert exchange.failures("source") == ["trusted-clone.policy.pcr-0"]


def test_a_log_that_does_not_explain_the_pcrs_is_refused() -> None:
    world = World()
    world.right.tpm.extend([(7, digest("evil"))])
    exchange = Exchange(world)
    exchange.start()
    assert exchange.failures("source") == ["trusted-clone.quote.pcrs"]


def test_a_source_that_is_not_in_the_policy_is_refused() -> None:
    world = World()
    policy = dataclasses.replace(world.policy, hosts={"right": "class-right"})
    exchange = Exchange(world, destination=world.destination(policy=policy))
    exchange.start()
    assert "trusted-clone.policy.host" in exchange.failures("destination")


# -- the order ------------------------------------------------------------------------------------


def refused_start(world: World, side: str = "source", now: int = NOW, **changes: Any) -> list[str]:
    session = (world.source if side == "source" else world.destination)(**changes)
    (refused,) = session.handle(events.Start(now, bytes(32)))
    assert isinstance(refused, actions.Refused)
    return [check.code for check in refused.verdict.failures]


def test_a_changed_order_is_refused() -> None:
    world = World()
    other = dataclasses.replace(world.order, project_id="mallory").encode()
    forged = dataclasses.replace(world.signed, order_bytes=other)
    assert refused_start(world, signed_order=forged) == ["trusted-clone.order.signature"]


def test_an_order_of_another_cloud_is_refused() -> None:
    world = World()
    forged = Authorities("foreign").sign(world.order)
    assert refused_start(world, signed_order=forged) == ["trusted-clone.certificate.anchor"]


def test_a_host_does_not_sign_orders() -> None:
    world = World()
    forged = SignedOrder(world.signed.order_bytes, world.signed.signature, (world.left.ak_cert,))
    assert "trusted-clone.certificate.anchor" in refused_start(world, signed_order=forged)
    assert "trusted-clone.order.signature" in refused_start(world, signed_order=forged)


@pytest.mark.parametrize(
    ("terms", "side", "failed"),
    [
        ({"source_host": "third"}, "source", ["trusted-clone.order.source-host"]),
        ({"destination_host": "third"}, "destination", ["trusted-clone.order.destination-host"]),
        ({"policy_sha256": bytes(32)}, "source", ["trusted-clone.order.policy"]),
        ({"expires_at": NOW + 901}, "source", ["trusted-clone.order.lifetime"]),
        (
            {"expires_at": NOW},
            "source",
            ["trusted-clone.order.lifetime", "trusted-clone.order.expired"],
        ),
        ({"vtpm_mode": "none"}, "source", ["trusted-clone.order.vtpm-mode"]),
        ({"vtpm_mode": "derive"}, "destination", ["trusted-clone.order.vtpm-mode"]),
        ({"destination_server": digest("web-1")[:16]}, "source", ["trusted-clone.order.servers"]),
        ({"disks": (("vda", 1), ("vda", 2))}, "source", ["trusted-clone.order.disks"]),
        ({"source_ak_name": bytes(34)}, "source", ["trusted-clone.order.source-ak"]),
        ({"destination_ak_name": bytes(34)}, "destination", ["trusted-clone.order.destination-ak"]),
    ],
)
def test_an_order_that_does_not_hold_here_is_refused(
    terms: dict[str, Any], side: str, failed: list[str]
) -> None:
    assert refused_start(World(**terms), side) == failed


@pytest.mark.parametrize(
    ("now", "failed"),
    [
        (NOW + 600, "trusted-clone.order.expired"),
        (NOW - 61, "trusted-clone.order.not-yet-valid"),
    ],
)
def test_an_order_out_of_its_time_is_refused(now: int, failed: str) -> None:
    for side in ("source", "destination"):
        assert refused_start(World(), side, now) == [failed]


def test_a_session_that_idles_past_the_orders_end_is_refused() -> None:
    world = World()
    exchange = Exchange(world)
    exchange.start()
    late = world.source()
    late.handle(events.Start(NOW, digest("seed")))
    quote = exchange.source_tpm.quote(bytes(32), range(8))
    late.handle(events.QuoteMade("challenge", *quote))
    answer = exchange.messages["answer"]
    (refused,) = late.handle(events.MessageReceived(answer, NOW + 601))
    assert isinstance(refused, actions.Refused)
    assert "trusted-clone.order.expired" in [c.code for c in refused.verdict.failures]


def test_the_source_cannot_bring_another_order_than_the_control_planes() -> None:
    world = World()
    other = world.authorities.sign(world.make_order(tenant_nonce=b"another nonce"))
    exchange = Exchange(world, source=world.source(signed_order=other))
    exchange.start()
    assert "trusted-clone.order.same" in exchange.failures("destination")


# -- vTPMs ----------------------------------------------------------------------------------------


def statement(world: World, vtpm: Any) -> Exchange:
    """Run until message 4 with another vTPM in the clone's place."""
    exchange = Exchange(world)
    world.right.vtpm = lambda name, inherited=(): vtpm(inherited)  # type: ignore[method-assign]
    exchange.start()
    assert not exchange.actions("source", actions.Freeze)
    return exchange


def test_a_vtpm_of_another_host_is_refused() -> None:
    world = World()
    left = world.left.vtpm
    exchange = statement(world, lambda inherited: left("elsewhere", inherited))
    assert exchange.failures("source") == ["trusted-clone.vtpm.host"]


def test_a_vtpm_that_did_not_inherit_is_refused() -> None:
    world = World()
    right = world.right.vtpm
    exchange = statement(world, lambda inherited: right("fresh"))
    assert exchange.failures("source") == [f"trusted-clone.vtpm.pcr-{i}" for i in range(1, 8)]


def test_a_tenants_genuine_vtpm_on_the_same_host_is_refused() -> None:
    """It is certified and its owner has it quote anything; the host's link is what it lacks."""
    world = World()
    tenant = world.right.vtpm("tenant")
    exchange = attacked(
        with_vtpm("vtpm-statement", ek_chain=tenant.ek_chain, ak_public=tenant.tpm.ak_public), world
    )
    assert "trusted-clone.quote.stale" in exchange.failures(
        "source"
    )  # the link is about another AK
    assert "trusted-clone.quote.signature" in exchange.failures("source")


def test_an_ek_without_its_hosts_authority_is_refused() -> None:
    exchange = attacked(with_vtpm("vtpm-statement", ek_chain=(World().right.ak_cert,)))
    assert "trusted-clone.vtpm.host" in exchange.failures("source")


def test_forged_vtpm_pcrs_are_refused() -> None:
    values = {index: bytes(32) for index in range(1, 8)}
    exchange = attacked(with_vtpm("vtpm-statement", pcr_values=values))
    assert "trusted-clone.quote.pcrs" in exchange.failures("source")


def test_a_clone_that_carries_its_sources_vtpm_is_refused() -> None:
    """The same AK twice is the copy of an identity."""
    world = World()
    shared = SoftwareTpm(key_from("vtpm ak web-1"))
    original = world.right.vtpm

    def copied(inherited: Any) -> Any:
        vtpm = original("clone", inherited)
        vtpm.tpm = dataclasses.replace(shared, pcrs=vtpm.tpm.pcrs)
        return vtpm

    exchange = Exchange(world)
    world.right.vtpm = lambda name, inherited=(): copied(inherited)  # type: ignore[method-assign]
    exchange.start()
    exchange.freeze()
    assert exchange.failures("source") == ["trusted-clone.vtpm.identity"]


def test_no_vtpm_where_one_was_ordered_is_refused() -> None:
    none = Exchange(World(vtpm_mode="none", allow_without_vtpm=True)).run(with_vtpm=False)
    exchange = attacked(on("vtpm-statement", lambda data: none.messages["no-vtpm"]))
    assert exchange.failures("source") == ["trusted-clone.message.kind"]


def test_a_server_without_a_certified_vtpm_needs_the_policys_leave() -> None:
    exchange = Exchange(World())
    exchange.start()
    exchange.freeze(with_vtpm=False)
    assert exchange.failures("destination") == ["trusted-clone.page-key.voucher"]
    assert not exchange.actions("destination", actions.Fetch)


def derive_world() -> Exchange:
    exchange = Exchange(World(vtpm_mode="derive", allow_vtpm_derive=True))
    exchange.start()
    exchange.freeze()
    return exchange


def test_an_order_to_derive_is_not_fulfilled_by_a_fresh_vtpm() -> None:
    exchange = derive_world()
    exchange.transfer()
    assert exchange.failures("destination") == ["trusted-clone.vtpm.installed"]


def test_a_derived_vtpm_that_kept_its_sources_identity_is_refused() -> None:
    exchange = derive_world()
    assert exchange.source_vtpm is not None
    kept = exchange.world.right.vtpm("kept")
    kept.tpm = exchange.source_vtpm.tpm
    exchange.vtpm = kept
    exchange.feed("destination", events.VtpmInstalled(kept.identity("derive")))
    assert exchange.failures("destination") == ["trusted-clone.vtpm.identity"]


# -- pages, and the end ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"page_key": bytes(32)},
        {"freeze_id": bytes(16)},
        {"pause_us": 1},
        {"regions": (*REGIONS[:3], (4, "device", "device", 5001), REGIONS[4])},
    ],
)
def test_another_page_key_freeze_or_region_is_refused(fields: dict[str, Any]) -> None:
    exchange = attacked(with_fields("page-key-by-vtpm", **fields))
    assert "trusted-clone.quote.stale" in exchange.failures("destination")
    assert not exchange.actions("destination", actions.Fetch)


@pytest.mark.parametrize(
    ("regions", "failed"),
    [
        ((REGIONS[1], *REGIONS[1:]), "unique"),
        ((REGIONS[1], REGIONS[0], *REGIONS[2:]), "unique"),
        (REGIONS[:2] + REGIONS[3:], "disks"),
        ((*REGIONS, (9, "disk", "vdb", 5)), "disks"),
        ((*REGIONS[:2], (3, "disk", "vda", 11 * MIB), *REGIONS[3:]), "disks"),
        (REGIONS[1:], "memory"),
        (((1, "ram", "pc.ram", 400 * MIB), *REGIONS[1:]), "memory"),
        ((*REGIONS, (9, "vtpm", "vtpm", 5)), "kind"),
        ((*REGIONS, (9, "secret", "x", 5)), "kind"),
        ((*REGIONS, (9, "device", "../../etc/shadow", 5)), "name"),
    ],
)
def test_regions_that_were_not_ordered_are_refused_before_they_are_offered(
    regions: Any, failed: str
) -> None:
    exchange = Exchange(World())
    exchange.start()
    exchange.freeze(regions=regions)
    assert f"trusted-clone.regions.{failed}" in exchange.failures("source")


def until_transfer(**sides: Any) -> Exchange:
    exchange = Exchange(World(), **sides)
    exchange.start()
    exchange.freeze()
    return exchange


@pytest.mark.parametrize(
    ("root", "counts", "failed"),
    [
        (bytes(32), COUNTS, ["trusted-clone.final.root"]),
        (ROOT, dataclasses.replace(COUNTS, zero_leaves=1), ["trusted-clone.final.counts"]),
    ],
)
def test_a_source_that_states_other_pages_is_refused(
    root: bytes, counts: Counts, failed: list[str]
) -> None:
    exchange = until_transfer()
    exchange.transfer()
    exchange.finish(root, counts)
    assert exchange.failures("destination") == failed


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_truncated_transfer_is_refused(side: str) -> None:
    exchange = until_transfer()
    short = dataclasses.replace(COUNTS, segments=COUNTS.segments - 1)
    if side == "destination":
        exchange.transfer(counts=short)
    else:
        exchange.transfer()
        exchange.finish(counts=short)
    assert exchange.failures(side) == ["trusted-clone.counts.complete"]


def test_a_receipt_for_other_pages_is_refused() -> None:
    exchange = attacked(with_fields("receipt", manifest_root=bytes(32)))
    assert {"trusted-clone.receipt.root", "trusted-clone.quote.stale"} <= set(
        exchange.failures("source")
    )


def test_a_receipt_for_another_vtpm_is_refused() -> None:
    exchange = attacked(with_fields("receipt", installed=SECOND.messages["vtpm-statement"]))
    assert {"trusted-clone.receipt.vtpm", "trusted-clone.quote.stale"} <= set(
        exchange.failures("source")
    )


def test_a_source_that_rebooted_before_the_end_is_refused() -> None:
    """Same AK, same PCRs, the log replayed: only the counter tells."""
    exchange = until_transfer()
    exchange.transfer()
    exchange.source_tpm.reboot()
    exchange.finish()
    assert exchange.failures("destination") == ["trusted-clone.boot.reset-count"]


def test_a_destination_that_rebooted_before_the_end_is_refused() -> None:
    exchange = until_transfer()
    exchange.transfer()
    exchange.destination_tpm.reboot()
    exchange.finish()
    assert exchange.failures("source") == ["trusted-clone.boot.reset-count"]


def test_a_destination_that_rebooted_between_answer_and_vtpm_is_refused() -> None:
    world = World()
    exchange = Exchange(world)
    original = world.right.vtpm

    def reboot(name: str, inherited: Any = ()) -> Any:
        world.right.tpm.reboot()
        return original(name, inherited)

    world.right.vtpm = reboot  # type: ignore[method-assign]
    exchange.start()
    assert exchange.failures("source") == ["trusted-clone.boot.reset-count"]


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("spoil", [lambda d: b"", lambda d: d[:-1], lambda d: d + b"\0"])
def test_rubbish_ends_a_session_and_nothing_else(name: str, spoil: Any) -> None:
    exchange = attacked(on(name, spoil))
    side = "source" if name in ("answer", "vtpm-statement", "receipt") else "destination"
    assert exchange.failures(side) == ["trusted-clone.malformed"]


def test_a_giant_message_is_refused_unread() -> None:
    exchange = attacked(on("answer", lambda data: data + bytes(1 << 20)))
    assert exchange.failures("source") == ["trusted-clone.malformed"]


def test_nothing_about_the_server_leaves_before_both_are_proven() -> None:
    """What the source sends up to message 3 is the order, which the broker carried, and itself."""
    exchange = Exchange(World())
    exchange.start()
    sent = exchange.messages["challenge"] + exchange.messages["confirmation"]
    assert digest("page key") not in sent
    assert b"pc.ram" not in sent


def test_a_forged_host_certificate_needs_the_authoritys_key() -> None:
    world = World()
    mallory = SoftwareTpm(key_from("mallory"), pcrs=dict(world.right.tpm.pcrs))
    cert = issue.issue_ak_certificate(
        key_from("mallory ca"),
        world.authorities.roots[Role.ATTESTATION],
        "right",
        mallory.ak_public,
        serial=3,
        **TIMES,
    )
    local = LocalHost("right", mallory.ak_public, (cert,), world.right.log)
    order = world.make_order(destination_ak_name=mallory.ak_name)
    world.signed = world.authorities.sign(order)  # even if the control plane were fooled
    exchange = Exchange(
        world, destination=world.destination(settings=local), destination_tpm=mallory
    )
    exchange.start()
    assert exchange.failures("source") == ["trusted-clone.certificate.anchor"]
