"""The exchange as it should go, told from both sides."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from nova_trusted_clone.core.errors import MalformedInput, ProtocolError
from nova_trusted_clone.core.protocol import actions, events
from nova_trusted_clone.core.protocol.messages import Counts, Receipt
from nova_trusted_clone.core.protocol.states import DestinationState, SourceState
from tests.unit.core.world import COUNTS, NOW, REGIONS, ROOT, Exchange, World, digest


def kinds(exchange: Exchange, side: str) -> list[str]:
    told = []
    for name, action in exchange.done:
        if name == side:
            purpose = f" {action.purpose}" if isinstance(action, actions.MakeQuote) else ""
            told.append(type(action).__name__ + purpose)
    return told


def test_a_clone_with_a_fresh_vtpm() -> None:
    exchange = Exchange(World()).run()
    assert kinds(exchange, "source") == [
        "MakeQuote challenge",
        "Send",
        "MakeQuote confirmation",
        "Send",
        "OpenChannel",
        "Freeze",
        "MakeQuote source-vtpm-link",
        "MakeQuote page-key",
        "Send",
        "MakeQuote final",
        "Send",
        "Completed",
    ]
    assert kinds(exchange, "destination") == [
        "MakeQuote answer",
        "Send",
        "OpenChannel",
        "MakeVtpm",
        "MakeQuote vtpm-link",
        "MakeQuote vtpm",
        "Send",
        "Send",
        "Fetch",
        "MakeQuote receipt",
        "Send",
        "Completed",
    ]
    assert exchange.source.state is SourceState.COMPLETE
    assert exchange.destination.state is DestinationState.COMPLETE
    assert exchange.source.verdict.ok
    assert exchange.destination.verdict.ok


def test_each_side_learns_the_others_channel_end_and_what_to_fetch() -> None:
    exchange = Exchange(World()).run()
    (at_source,) = exchange.actions("source", actions.OpenChannel)
    (at_destination,) = exchange.actions("destination", actions.OpenChannel)
    assert at_source.peer_certificate == b"store's certificate"
    assert at_destination.peer_certificate == b"exporter's certificate"
    assert exchange.actions("destination", actions.Fetch) == [
        actions.Fetch(digest("page key"), digest("group")[:16], REGIONS, 23_000)
    ]


def test_the_clones_vtpm_inherits_its_hosts_pcrs() -> None:
    exchange = Exchange(World()).run()
    assert exchange.vtpm is not None
    assert {i: exchange.vtpm.tpm.pcrs[i] for i in range(1, 8)} == {
        i: exchange.world.right.tpm.pcrs[i] for i in range(1, 8)
    }
    assert exchange.vtpm.tpm.pcrs[0] == bytes(32)


def test_hosts_quote_pcr_0_to_7_and_vtpms_1_to_7() -> None:
    exchange = Exchange(World()).run()
    made = [
        a for side in ("source", "destination") for a in exchange.actions(side, actions.MakeQuote)
    ]
    assert {a.pcrs for a in made if a.signer == "host"} == {tuple(range(8))}
    assert {a.pcrs for a in made if a.signer == "vtpm"} == {tuple(range(1, 8))}
    assert len({a.qualifying_data for a in made}) == len(made)


def test_a_server_without_a_vtpm() -> None:
    world = World(vtpm_mode="none", allow_without_vtpm=True)
    exchange = Exchange(world).run(with_vtpm=False)
    assert not exchange.actions("destination", actions.MakeVtpm)
    (done,) = exchange.actions("source", actions.Completed)
    assert done.evidence["clone"]["page_key_vouched_by"] == "host"
    assert done.evidence["clone"]["clone_ek_certificate_sha256"] is None


def test_a_server_whose_vtpm_nobody_certified_is_vouched_for_by_its_host() -> None:
    exchange = Exchange(World(allow_without_vtpm=True)).run(with_vtpm=False)
    (done,) = exchange.actions("source", actions.Completed)
    assert done.evidence["clone"]["page_key_vouched_by"] == "host"
    assert done.evidence["clone"]["clone_ek_certificate_sha256"] is not None


def derived(exchange: Exchange, name: str = "derived") -> None:
    """The vTPM is derived from the source's: other keys, the source's PCRs."""
    assert exchange.source_vtpm is not None
    fresh = exchange.world.right.vtpm(name)
    fresh.tpm.pcrs = dict(exchange.source_vtpm.tpm.pcrs)
    exchange.vtpm = fresh
    exchange.feed("destination", events.VtpmInstalled(fresh.identity("derive")))


def test_a_derived_vtpm_is_installed_before_the_end() -> None:
    world = World(vtpm_mode="derive", allow_vtpm_derive=True)
    exchange = Exchange(world)
    exchange.start()
    exchange.freeze(regions=(*REGIONS, (6, "vtpm", "vtpm", 9000)))
    derived(exchange)
    counts = Counts(segments=78, leaves=COUNTS.leaves + 3, zero_leaves=0, bytes=1)
    exchange.transfer(counts=counts)
    exchange.finish(counts=counts)
    assert exchange.source.state is SourceState.COMPLETE
    (done,) = exchange.actions("source", actions.Completed)
    assert exchange.vtpm is not None
    ek = hashlib.sha256(exchange.vtpm.ek_chain[0]).hexdigest()
    assert done.evidence["clone"]["clone_ek_certificate_sha256"] == ek


def test_both_sides_hold_the_same_evidence() -> None:
    exchange = Exchange(World()).run()
    (one,) = exchange.actions("source", actions.Completed)
    (other,) = exchange.actions("destination", actions.Completed)
    assert one.evidence == other.evidence


def test_a_session_fed_the_same_events_again_does_the_same() -> None:
    """What lets a restarted service go on."""
    world, fed = World(), []
    exchange = Exchange(world)
    original = exchange.source.handle

    def remember(event: events.Event) -> tuple[actions.Action, ...]:
        fed.append(event)
        return original(event)

    exchange.source.handle = remember  # type: ignore[method-assign]
    exchange.run()
    again = world.source()
    told = [action for event in fed for action in again.handle(event)]
    assert told == [action for side, action in exchange.done if side == "source"]
    assert again.state is SourceState.COMPLETE


def test_aborted_sessions_release_and_take_nothing_more() -> None:
    exchange = Exchange(World())
    exchange.start()
    assert exchange.feed("source", events.Abort("operator")) == [actions.Release("operator")]
    with pytest.raises(ProtocolError, match="session is aborted, in which Abort"):
        exchange.feed("source", events.Abort("again"))


@pytest.mark.parametrize(
    "event",
    [
        events.MessageReceived(b"", NOW),
        events.QuoteMade("challenge", b"", b""),
        events.FreezeDone(bytes(16), bytes(32), REGIONS, 0),
        events.TransferDone(ROOT, COUNTS),
        events.VtpmReady(events.VtpmIdentity("new", (b"ek",), b"", {})),
    ],
)
def test_what_is_not_in_the_table_is_an_error_that_names_both(event: events.Event) -> None:
    for session in (World().source(), World().destination()):
        with pytest.raises(ProtocolError) as caught:
            session.handle(event)
        assert caught.value.code == "trusted-clone.protocol.unexpected"
        assert str(caught.value).startswith("the session is new, in which ")
        assert type(event).__name__ in str(caught.value)
        assert session.state == "new"


def test_a_quote_for_another_purpose_changes_nothing() -> None:
    source = World().source()
    source.handle(events.Start(NOW, digest("seed")))
    with pytest.raises(ProtocolError, match="'final', not 'challenge'"):
        source.handle(events.QuoteMade("final", b"a", b"s"))
    assert source.state is SourceState.QUOTING_CHALLENGE


def test_a_final_statement_before_everything_is_fetched_is_out_of_turn() -> None:
    exchange = Exchange(World())
    exchange.start()
    exchange.freeze()
    with pytest.raises(ProtocolError, match="fetching pages, in which MessageReceived"):
        exchange.finish()


@pytest.mark.parametrize("nonce", [b"", bytes(31)])
def test_a_short_nonce_is_our_own_fault(nonce: bytes) -> None:
    for session in (World().source(), World().destination()):
        with pytest.raises(MalformedInput, match="nonce"):
            session.handle(events.Start(NOW, nonce))


def test_the_nonce_stays_out_of_logs() -> None:
    assert digest("seed").hex() not in repr(events.Start(NOW, digest("seed"))).lower()
    assert "nonce" not in repr(events.Start(NOW, digest("seed")))


def test_n1_does_not_tell_n3() -> None:
    exchange = Exchange(World()).run()
    assert digest("seed") not in b"".join(exchange.messages.values())


def test_the_receipt_names_what_was_sent() -> None:
    exchange = Exchange(World()).run()
    receipt = Receipt.decode(exchange.messages["receipt"])
    assert (receipt.manifest_root, receipt.counts) == (ROOT, COUNTS)


def test_an_unfit_host_is_refused_before_it_speaks() -> None:
    world = World()
    log: Any = world.left.local
    with pytest.raises(MalformedInput, match="event log"):
        type(log)(log.host_id, log.ak_public, log.ak_chain, b"no log")
