"""Hosts that are not what they should be, and whoever stands between them: refused before one byte of the server leaves."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from labkit import hardware_tpm
from labkit.agent import PEER_PORT
from labkit.guests import Guest
from labkit.ordering import Cloning

from nova_trusted_clone.clone import admission, enrolment, records
from nova_trusted_clone.clone.authority import Authority
from nova_trusted_clone.tpm.esys import EsysTpm
from nova_trusted_clone.transport import rpc
from tests.integration import clonelab
from tests.integration.clonelab import CloneLab, until
from tests.integration.frames import capture
from tests.integration.middleman import between

pytestmark = pytest.mark.integration
BULK_PORTS = frozenset(range(49300, 49364))


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """The product's."""
    clones.start_agents()


@contextlib.contextmanager
def nothing_leaves(clones: CloneLab, web: Guest) -> Iterator[None]:
    """For a story in which a host is refused: no page moves, nobody is frozen, both sides are clean."""
    marks = clonelab.freeze_marks(web)
    with clones.nothing_left(web), capture(clones.source) as seen:
        yield
        assert not seen.tcp_ports() & BULK_PORTS
    assert clonelab.freeze_marks(web) == marks


def require_refused(clones: CloneLab, cloning: Cloning, *codes: str) -> None:
    """Both sides' records name the reasons, and the server was never stopped."""
    there, here = clones.ended(cloning, 40)
    for code in codes:
        assert code in there, there
        assert code in here, here
    freeze = clones.source.state_path / "freezes" / cloning.group / "freeze.json"
    assert records.read(freeze)["pause_s"] == 0


# -- hosts --


@pytest.mark.parametrize("which", ["source", "destination"])
def test_a_host_with_another_firmware_is_refused(clones: CloneLab, web: Guest, which: str) -> None:
    host = getattr(clones, which)
    host.reboot(firmware="a firmware that nobody approved")
    clones.start_agent(host)
    try:
        with nothing_leaves(clones, web):
            require_refused(clones, clones.order(web), "trusted-clone.policy.pcr-")
    finally:
        host.reboot()
        clones.start_agent(host)


def test_a_host_whose_key_another_operator_certified_is_refused(
    clones: CloneLab, web: Guest, tmp_path: pathlib.Path
) -> None:
    makers = hardware_tpm.vendor_certificates(clones.lab.paths.vendor_ca)
    stranger = Authority.create(tmp_path / "stranger", "stranger", makers)
    identity = tmp_path / "identity"
    with contextlib.closing(EsysTpm(clones.destination.tpm)) as tpm:
        asked = enrolment.request(tpm, clones.destination.name, identity)
        answered = enrolment.respond(tpm, identity, admission.challenge(stranger, asked))
    enrolment.install(identity, admission.grant(stranger, answered))
    clones.start_agent(clones.destination, identity_path=str(identity))
    try:
        with nothing_leaves(clones, web):
            require_refused(clones, clones.order(web), "trusted-clone.certificate.")
    finally:
        clones.start_agent(clones.destination)


# -- whoever stands between them --


def flip(message: dict[str, Any], at: float) -> dict[str, Any]:
    """One bit of the message is another, at this part of its length."""
    raw = bytearray(message["data"])
    raw[min(int(len(raw) * at), len(raw) - 1)] ^= 1
    return {**message, "data": bytes(raw)}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("of_reply", [False, True], ids=["request", "reply"])
def test_an_altered_message_is_refused(
    clones: CloneLab, web: Guest, number: int, of_reply: bool
) -> None:
    def change(count: int, message: dict[str, Any]) -> dict[str, Any]:
        return flip(message, 0.99) if count == number else message

    with nothing_leaves(clones, web), between(clones) as relay:
        if of_reply:
            relay.change_reply = change
        else:
            relay.change_request = change
        require_refused(clones, clones.order(web, via=relay.address), "trusted-clone.")


def test_a_recorded_conversation_is_of_no_use(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web), between(clones) as relay:
        first = clones.complete(web, via=relay.address)
        clones.destroy(first.clones[0])
        recorded = list(relay.conversation)
    assert len(recorded) == 4

    # The answers of then, to the source of now.
    with nothing_leaves(clones, web), between(clones) as relay:
        relay.answer = lambda number, _request: recorded[number][1]
        cloning = clones.order(web, via=relay.address)
        require_refused_here(clones, cloning, "trusted-clone.quote")

    # The messages of then, to the destination of now: for the clone of then, and for a new one.
    with nothing_leaves(clones, web), between(clones) as relay:
        challenge = recorded[0][0]
        with pytest.raises(rpc.PublicError, match="the clone has ended"):
            relay.call("message", **challenge)
        relay.hold_after(0)
        cloning = clones.order(web, via=relay.address)
        until("the first message", relay.holding)
        clone_id = cloning.clones[0].clone_id
        with pytest.raises(rpc.PublicError, match=r"trusted-clone\.order\.same"):
            relay.call("message", **{**challenge, "clone_id": clone_id})
        relay.let_go()
        require_refused(clones, cloning, "trusted-clone.order.same")


def require_refused_here(clones: CloneLab, cloning: Cloning, *codes: str) -> None:
    """Refused by the source; the destination never heard of it, or heard that it is over."""
    reason = until("the refusal", lambda: clones.outgoing(cloning, cloning.clones[0])["reason"], 40)
    for code in codes:
        assert code in reason, reason
    clones.ended(cloning)


def test_a_message_relayed_into_another_clone_is_refused(clones: CloneLab, web: Guest) -> None:
    with nothing_leaves(clones, web), between(clones) as relay:
        cloning = clones.order(web, count=2, via=relay.address)
        one, other = (clone.clone_id for clone in cloning.clones)
        crossed = {one: other, other: one}
        relay.change_request = lambda _number, request: {
            **request,
            "clone_id": crossed[request["clone_id"]],
        }
        ended = cloning.wait(40)
        assert [clone.phase for clone in ended] == ["failed", "failed"]
        assert all("trusted-clone." in clone.reason for clone in ended), ended


def test_an_order_for_one_host_does_not_work_on_another(clones: CloneLab, web: Guest) -> None:
    """Announced and relayed to the source host itself instead of its destination."""
    with nothing_leaves(clones, web):
        cloning = clones.order(web, via=(clones.source.address, PEER_PORT))
        until(
            "the refusal",
            lambda: "is expected here" in clones.outgoing(cloning, cloning.clones[0])["reason"],
            40,
        )
        # Its destination never heard of a source, and waits until the order expires; the operator need not.
        clones.operator.agent(clones.destination).admin.call(
            "end", clone_id=cloning.clones[0].clone_id, reason="nobody came"
        )
        clones.ended(cloning)


def test_an_order_of_another_operator_is_refused_by_both(
    clones: CloneLab, web: Guest, tmp_path: pathlib.Path
) -> None:
    """Signed by keys of the stranger's own, for the very same hosts."""
    makers = hardware_tpm.vendor_certificates(clones.lab.paths.vendor_ca)
    stranger = Authority.create(tmp_path / "stranger", "stranger", makers)
    operator = clones.operator
    for host in clones.lab.hosts:
        with stranger.registry.claiming(operator.authority.registry.get(host.name)):
            pass
    server = uuid.uuid4()
    raw = stranger.sign_order(clonelab.terms(clones, web, server)).encode()
    source, destination = (operator.agent(host).admin for host in clones.lab.hosts)
    with nothing_leaves(clones, web):
        with pytest.raises(rpc.RpcError, match=r"trusted-clone\.certificate\.") as refused:
            destination.call("prepare", order=raw, name="foreign", uuid=str(server), nics=[])
        assert refused.value.code == "trusted-clone.rejected"
        address = {"address": clones.destination.address, "port": PEER_PORT}
        group = source.call("clone", orders=[{"order": raw, **address}])["group"]
        reason = until(
            "the refusal",
            lambda: source.call("freeze_status", group=group)["clones"][0]["reason"],
            30,
        )
        assert "trusted-clone.certificate." in reason
