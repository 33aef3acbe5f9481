"""Whole clones between two hosts: real TPMs, vTPMs, QEMU, TLS and FUSE."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import pytest
from labkit import guests
from labkit.guests import Guest
from labkit.ordering import Cloning, Ordered

from nova_trusted_clone.cmd import manage
from nova_trusted_clone.transport.rpc import RpcError
from tests.integration import clonelab
from tests.integration.clonelab import CloneLab, definition, said, until
from tests.integration.frames import capture

pytestmark = pytest.mark.integration
Verify = Any


@pytest.fixture(scope="module", autouse=True)
def agents(clones: CloneLab) -> None:
    """The product's, with a test's limits."""
    clones.start_agents()


@pytest.fixture
def verify(clones: CloneLab, capsys: pytest.CaptureFixture[str]) -> Verify:
    """What a tenant does with evidence: ``verify(file, nonce)`` returns the exit status and what was printed."""

    def run(
        file: pathlib.Path, nonce: bytes, policy: pathlib.Path | None = None
    ) -> tuple[int, str]:
        operator = clones.operator
        capsys.readouterr()
        files = [file, "--ca", operator.anchors, "--policy", policy or operator.policy]
        words = [str(word) for word in ("evidence", "verify", *files, "--nonce", nonce.hex())]
        status = manage.main(words)
        return status, "".join(capsys.readouterr())

    return run


def require_evidence(
    cloning: Cloning, clone: Ordered, file: pathlib.Path, verify: Verify
) -> dict[str, Any]:
    """A clone's evidence, which holds."""
    told = cloning.evidence(clone)
    file.write_text(json.dumps(told))
    status, printed = verify(file, clone.nonce)
    assert status == 0, printed
    summary: dict[str, Any] = told["clone"]
    assert summary["destination_server"] == clone.uuid
    assert summary["source_server"] == cloning.source.uuid
    return summary


def test_a_lazy_clone_is_a_server_of_its_own(
    clones: CloneLab, web: Guest, tmp_path: pathlib.Path, verify: Verify
) -> None:
    source_macs = set(web.definition.macs)
    with clones.nothing_left(web), capture(clones.destination) as seen:
        since = web.console.size()
        cloning = clones.complete(web)
        (clone,) = cloning.clones

        console = clones.console(clone)
        assert console.check_itself().bad == 0
        mine, yours = said(console, console.size()), said(web.console, since)
        found = definition(clones.destination, clone.uuid)
        assert found.findtext("name") == clone.name
        assert mine["mac"] == clone.macs[0]
        assert clone.macs[0] not in source_macs
        for other in ("genid", "ek_rsa", "ek_ecc", "random"):
            assert mine[other] != yours[other], other
        until("the clone's own frames", lambda: seen.senders() >= set(clone.macs))
        assert not seen.senders() & source_macs
        assert 0 < cloning.pause_s() < 5

        summary = require_evidence(cloning, clone, tmp_path / "evidence.json", verify)
        assert summary["clone_ek_certificate_sha256"] in (mine["ek_rsa"], mine["ek_ecc"])
        assert (summary["vtpm_mode"], summary["page_key_vouched_by"]) == ("new", "vtpm")
        refuse_other_evidence(clones, clone, tmp_path, verify)
        clones.destroy(clone)


def refuse_other_evidence(
    clones: CloneLab, clone: Ordered, directory: pathlib.Path, verify: Verify
) -> None:
    """It holds for this nonce and this policy alone, and no byte of a message may be another."""
    good = directory / "evidence.json"
    status, printed = verify(good, bytes(32))
    assert status == 1
    assert "FAILED  trusted-clone.evidence.nonce" in printed

    policy = json.loads(clones.operator.policy.read_text())
    other = directory / "policy.json"
    other.write_text(json.dumps({**policy, "max_order_seconds": 123}))
    status, printed = verify(good, clone.nonce, other)
    assert status == 1
    assert "FAILED  trusted-clone.order.policy" in printed

    told = json.loads(good.read_text())
    for name, message in told["messages"].items():
        raw = bytearray(base64.b64decode(message))
        raw[-1] ^= 1
        messages = {**told["messages"], name: base64.b64encode(raw).decode()}
        bad = directory / f"flipped-{name}.json"
        bad.write_text(json.dumps({**told, "messages": messages}))
        status, printed = verify(bad, clone.nonce)
        assert status == 1, name
        assert "FAILED" in printed, name


def test_a_clone_survives_the_end_of_the_agents_that_made_it(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        cloning = clones.complete(web)
        (clone,) = cloning.clones
        store = clones.store(cloning)
        try:
            for host in clones.lab.hosts:
                clones.kill_agent(host)
            assert clones.console(clone).check_itself().bad == 0
            assert store.alive
        finally:
            clones.start_agents()
        status = clones.operator.agent(clones.destination).admin.call(
            "clone_status", clone_id=clone.clone_id
        )
        assert status["phase"] == "complete"
        assert store.alive
        until("disks of its own", lambda: not backed_disks(clones, clone), 60)
        clones.destroy(clone)
        until("the end of the store", lambda: not store.alive)


def backed_disks(clones: CloneLab, clone: Ordered) -> int:
    """How many disks still need the store."""
    found = definition(clones.destination, clone.uuid)
    return len(found.findall("devices/disk/backingStore/source"))


def test_an_eager_clone_runs_only_when_everything_is_proven(
    clones: CloneLab, web: Guest, tmp_path: pathlib.Path, verify: Verify
) -> None:
    with clones.nothing_left(web):
        cloning = clones.order(web, memory_mode="eager")
        (clone,) = cloning.clones
        phases = []
        while not (now := cloning.poll()[0]).ended:
            phases.append(now.phase)
            if now.phase in ("attesting", "fetching"):
                assert clone.uuid not in running_servers(clones)
        assert now.phase == "complete", now
        assert "provisional" not in phases
        assert clones.console(clone).check_itself().bad == 0
        summary = require_evidence(cloning, clone, tmp_path / "evidence.json", verify)
        assert summary["memory_mode"] == "eager"
        clones.destroy(clone)


def running_servers(clones: CloneLab) -> list[str]:
    with guests.connected(clones.destination) as connection:
        return [domain.UUIDString() for domain in connection.listAllDomains()]


def test_a_derived_vtpm_keeps_what_was_sealed_and_is_another_tpm(
    clones: CloneLab, web: Guest, tmp_path: pathlib.Path, verify: Verify
) -> None:
    with clones.nothing_left(web):
        with pytest.raises(RpcError, match=r"order\.vtpm-mode: found derive"):
            clones.order(web, vtpm_mode="derive")

        clones.operator.allow(allow_vtpm_derive=True)
        try:
            since = web.console.size()
            cloning = clones.complete(web, vtpm_mode="derive")
            (clone,) = cloning.clones
            console = clones.console(clone)
            assert console.check_itself().bad == 0
            mine, yours = said(console, console.size()), said(web.console, since)
            # A PCR that the guest extends each second goes on from the source's value.
            assert mine["pcr16_kept"] == "1"
            for other in ("ek_rsa", "ek_ecc", "random"):
                assert mine[other] != yours[other], other
            summary = require_evidence(cloning, clone, tmp_path / "evidence.json", verify)
            assert summary["vtpm_mode"] == "derive"
            assert summary["clone_ek_certificate_sha256"] in (mine["ek_rsa"], mine["ek_ecc"])
            clones.destroy(clone)
        finally:
            clones.operator.allow(allow_vtpm_derive=False)


def test_siblings_share_one_freeze_and_fetch_each_page_once(
    clones: CloneLab, tmp_path: pathlib.Path, verify: Verify
) -> None:
    """Of a guest with two processors, two disks and a video card."""
    wished: dict[str, Any] = {"vcpus": 2, "disks": (16, 24), "video": True, "disk_format": "raw"}
    with clonelab.running(clones.source, name="wide", **wished) as wide, clones.nothing_left(wide):
        cloning = clones.order(wide, count=2)
        status_of = clones.operator.agent(clones.destination).admin
        received = until(
            "everything fetched",
            lambda: whole_transfer(
                status_of.call("clone_status", clone_id=cloning.clones[0].clone_id)
            ),
        )
        assert [clone.phase for clone in cloning.wait(180)] == ["complete"] * 2
        summaries = []
        for clone in cloning.clones:
            assert clones.console(clone).check_itself().bad == 0
            summaries.append(
                require_evidence(cloning, clone, tmp_path / f"{clone.name}.json", verify)
            )
        first, second = summaries
        for same in ("freeze_id", "page_key", "manifest_root", "counts", "regions", "pause_us"):
            assert first[same] == second[same], same
        for other in ("clone_id", "clone_ek_certificate_sha256", "tenant_nonce"):
            assert first[other] != second[other], other
        names = {(kind, name.rpartition("/")[2]) for _, kind, name, _ in first["regions"]}
        assert names >= {
            ("ram", "pc.ram"),
            ("ram", "vga.vram"),
            ("disk", "vda"),
            ("disk", "vdb"),
        }
        # Neither page came twice: what came over the network is what is not zero, once.
        sent = (first["counts"]["leaves"] - first["counts"]["zero_leaves"]) * 4096
        assert received <= sent

        consoles = [clones.console(clone) for clone in cloning.clones]
        macs = [console.wait_for("NIC", since=console.size())["mac"] for console in consoles]
        assert macs == [clone.macs[0] for clone in cloning.clones]
        for clone in cloning.clones:
            clones.destroy(clone)

        again = clones.complete(wide, memory_mode="eager")
        assert again.group != cloning.group
        assert clones.console(again.clones[0]).check_itself().bad == 0
        clones.destroy(again.clones[0])


def whole_transfer(status: dict[str, Any]) -> int:
    """The bytes received, once every page is verified; 0 before."""
    assert status["phase"] != "failed", status
    transfer = status.get("transfer", {})
    return int(transfer["bytes_received"]) if transfer.get("complete") else 0


def test_a_server_without_vtpm_and_generation_id_needs_the_policys_leave(
    clones: CloneLab, tmp_path: pathlib.Path, verify: Verify
) -> None:
    operator = clones.operator
    with (
        clonelab.running(clones.source, name="plain", vtpm=False, genid=False) as plain,
        clones.nothing_left(plain),
    ):
        with pytest.raises(RpcError, match=r"order\.vtpm-mode: found none"):
            clones.order(plain, vtpm_mode="none")
        refused = clones.fail(plain, vtpm_mode="new")
        assert "the server has no vTPM, but the order says vtpm=new" in refused.reason
        assert "no generation id, which the policy requires" in refused.reason

        operator.allow(allow_without_vtpm=True, require_generation_id=False)
        try:
            cloning = clones.complete(plain, vtpm_mode="none")
            (clone,) = cloning.clones
            assert clones.console(clone).check_itself().bad == 0
            summary = require_evidence(cloning, clone, tmp_path / "evidence.json", verify)
            assert (summary["vtpm_mode"], summary["page_key_vouched_by"]) == ("none", "host")
            assert summary["clone_ek_certificate_sha256"] is None
            clones.destroy(clone)
        finally:
            operator.allow(allow_without_vtpm=False, require_generation_id=True)


def test_a_second_freeze_during_the_first_is_refused_at_once(clones: CloneLab, web: Guest) -> None:
    with clones.nothing_left(web):
        first = clones.order(web)
        until("the freeze", lambda: first.poll()[0].phase in ("fetching", "restoring"))
        second = clonelab.failed(clones.order(web), 10)
        assert "frozen already" in second.reason
        assert [clone.phase for clone in first.wait(120)] == ["complete"]
        assert clones.console(first.clones[0]).check_itself().bad == 0
        clones.destroy(first.clones[0])
