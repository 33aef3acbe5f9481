"""A guest of one Xen host, cloned to the other while it runs."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from labkit import ordering
from labkit.xen.fleet import Fleet
from labkit.xen.guests import Wish, XenGuest

from nova_trusted_clone.core.attest.issue import KEPT_BY_HOST
from nova_trusted_clone.core.protocol.evidence import Conversation
from nova_trusted_clone.core.protocol.messages import VtpmStatement
from tests.xen.conftest import DISK_MIB, StartGuest

CLONE_LIMIT_S = 1200.0


def cloned(fleet: Fleet, source: XenGuest, **wishes: str) -> tuple[ordering.Cloning, XenGuest]:
    """Order one clone, wait until it is complete, and return it as a guest of the other host."""
    cloning = ordering.order(fleet, source, fleet.hosts.destination, **wishes)
    (progress,) = cloning.wait(CLONE_LIMIT_S, poll_s=2.0)
    assert progress.phase == "complete", progress.reason
    clone = cloning.clones[0]
    return cloning, XenGuest(fleet.hosts.destination, clone.name, clone.uuid, source.definition)


@pytest.mark.parametrize("kind", ["pvh", "hvm", "pv"])
def test_a_guest_lives_twice(fleet: Fleet, start_guest: StartGuest, kind: str, run: int) -> None:
    source = start_guest(Wish(name=f"{kind}-{run}", kind=kind, disk_mib=DISK_MIB))
    cloning, clone = cloned(fleet, source)
    ordered = cloning.clones[0]

    # Memory, and the disk as memory remembers it, of both, from now on.
    for guest in (source, clone):
        since = guest.size()
        assert guest.wait_for_pass().number("bad") == 0
        disk = guest.wait_for("DISKCHECK", since)
        assert disk.number("bad") == 0 and disk.number("blocks") > 0

    nic = clone.wait_for("NIC", clone.size())
    assert nic["mac"] == ordered.macs[0] != source.definition.macs[0]

    evidence = cloning.evidence(ordered)
    told = json.dumps(evidence).encode()
    assert ordering.verdict_text(fleet, told, ordered.nonce) == "accepted"
    # The guest sees no TPM, and the evidence says so.
    assert evidence["clone"]["page_key_vouched_by"] == "vtpm"
    assert _holder_of_the_clones_vtpm(evidence) == KEPT_BY_HOST
    clone.destroy()


def test_all_processors_and_disks_of_a_guest_come_along(
    fleet: Fleet, start_guest: StartGuest
) -> None:
    wish = Wish(name="wide", vtpm=False, vcpus=2, disks=2, disk_mib=DISK_MIB, cpuset="1-2")
    source = start_guest(wish)
    _, clone = cloned(fleet, source, vtpm_mode="none")
    for guest in (source, clone):
        since = guest.size()
        assert guest.wait_for_pass().number("bad") == 0
        for disk in source.definition.disks:
            line = guest.wait_for("DISKCHECK", since, disk=disk.target)
            assert line.number("bad") == 0 and line.number("blocks") > 0
    assert len(clone.processor_times_s()) == 2
    assert min(clone.processor_times_s()) > 0
    clone.destroy()


def _holder_of_the_clones_vtpm(told: dict[str, object]) -> str:
    messages = told["messages"]
    assert isinstance(messages, dict)
    conversation = Conversation.read({n: base64.b64decode(m) for n, m in messages.items()})
    statement = conversation.vtpm
    assert isinstance(statement, VtpmStatement)
    subject = x509.load_der_x509_certificate(statement.vtpm.ek_chain[0]).subject
    (name,) = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(name.value)
