"""A small cloud: authorities, two hosts with software TPMs, a policy, and a driver for a whole
exchange."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import serialization

from nova_trusted_clone.core.attest import eventlog, issue
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy, learn
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.core.protocol import actions, events
from nova_trusted_clone.core.protocol.destination import DestinationSession
from nova_trusted_clone.core.protocol.messages import Counts
from nova_trusted_clone.core.protocol.order import Order, SignedOrder, sign_order
from nova_trusted_clone.core.protocol.replay import MemoryReplayGuard
from nova_trusted_clone.core.protocol.session import LocalHost
from nova_trusted_clone.core.protocol.source import SourceSession
from tests.unit.core.software_tpm import SoftwareTpm, key_from

NOW = 1_800_000_000
TIMES: dict[str, int] = {"not_before": NOW - 86400, "not_after": NOW + 30 * 86400}
MIB = 1 << 20
ROOT = hashlib.sha256(b"manifest root").digest()
REGIONS = (
    (1, "ram", "pc.ram", 64 * MIB),
    (2, "ram", "0000:00:02.0/vga.vram", 4096),
    (3, "disk", "vda", 10 * MIB),
    (4, "device", "device", 5000),
    (5, "domain", "domain", 3000),
)
COUNTS = Counts(
    segments=77, leaves=16384 + 1 + 2560 + 2 + 1, zero_leaves=900, bytes=74 * MIB + 12096
)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def serial(text: str) -> int:
    return int.from_bytes(digest(text)[:15], "big") | 1


def boot_log(name: str) -> bytes:
    found = [eventlog.Event(0, 8, digest("firmware"), b"firmware")]
    found += [eventlog.Event(i % 7 + 1, 0xD, digest(f"{name} {i}"), b"loaded") for i in range(21)]
    found += [eventlog.Event(pcr, 4, digest("separator"), bytes(4)) for pcr in range(8)]
    return eventlog.build(found)


class Authorities:
    """Roots of every role."""

    def __init__(self, name: str = "test") -> None:
        self.keys = {role: key_from(f"{name} {role.value}") for role in Role}
        self.roots = {
            role: issue.make_root(
                role,
                f"{name} {role.value} root",
                self.keys[role],
                serial=serial(f"{name}{role}"),
                **TIMES,
            )
            for role in Role
        }
        self.signer = key_from(f"{name} order signer")
        self.signer_cert = issue.issue_control_certificate(
            self.keys[Role.CONTROL],
            self.roots[Role.CONTROL],
            "conductor",
            self.signer.public_key(),
            serial=serial("signer"),
            **TIMES,
        )
        self.anchors = TrustAnchors(
            attestation=(self.roots[Role.ATTESTATION],),
            vtpm=(self.roots[Role.VTPM],),
            control=(self.roots[Role.CONTROL],),
            host_ek=(self.roots[Role.HOST_EK],),
        )

    def sign(self, order: Order) -> SignedOrder:
        return sign_order(self.signer, [self.signer_cert], order)


class Machine:
    """A host: TPM, boot log, AK certificate, an authority for its vTPMs."""

    def __init__(self, host_id: str, authorities: Authorities, log: bytes | None = None) -> None:
        self.host_id = host_id
        self.log = boot_log(host_id) if log is None else log
        self.tpm = SoftwareTpm(key_from(f"ak {host_id}"))
        self.tpm.extend(eventlog.measured(eventlog.parse(self.log), range(8)))
        self.ak_cert = issue.issue_ak_certificate(
            authorities.keys[Role.ATTESTATION],
            authorities.roots[Role.ATTESTATION],
            host_id,
            self.tpm.ak_public,
            serial=serial(f"ak {host_id}"),
            **TIMES,
        )
        self.vtpm_key = key_from(f"vtpm ca {host_id}")
        self.vtpm_ca = issue.issue_vtpm_ca(
            authorities.keys[Role.VTPM],
            authorities.roots[Role.VTPM],
            host_id,
            self.vtpm_key.public_key(),
            serial=serial(f"vtpm ca {host_id}"),
            **TIMES,
        )
        self.local = LocalHost(host_id, self.tpm.ak_public, (self.ak_cert,), self.log)

    def vtpm(self, name: str, inherited: Any = ()) -> Vtpm:
        made = SoftwareTpm(key_from(f"vtpm ak {name}"))
        made.extend(inherited)
        ek = issue.issue_ek_certificate(
            self.vtpm_key,
            self.vtpm_ca,
            key_from(f"vtpm ek {name}").public_key(),
            name,
            serial=serial(f"ek {name}"),
            **TIMES,
        )
        return Vtpm(made, (ek, self.vtpm_ca))

    @property
    def values(self) -> dict[int, bytes]:
        return {index: self.tpm.pcrs[index] for index in range(8)}


@dataclasses.dataclass
class Vtpm:
    tpm: SoftwareTpm
    ek_chain: tuple[bytes, ...]

    def identity(self, mode: str) -> events.VtpmIdentity:
        values = {index: self.tpm.pcrs[index] for index in range(1, 8)}
        return events.VtpmIdentity(mode, self.ek_chain, self.tpm.ak_public, values)


def make_policy(*machines: Machine, **changes: Any) -> Policy:
    return Policy.parse(policy_json(*machines, **changes))


def policy_json(*machines: Machine, **changes: Any) -> bytes:
    raw: bytes | None = None
    for machine in machines:
        raw = learn(raw, machine.host_id, f"class-{machine.host_id}", machine.values)
    assert raw is not None
    return json.dumps({**json.loads(raw), **changes}).encode()


class World:
    """Source host ``left``, destination host ``right``, and one order."""

    def __init__(self, **changes: Any) -> None:
        terms = {k: changes.pop(k) for k in list(changes) if k in Order.__dataclass_fields__}
        self.authorities = Authorities()
        self.left, self.right = (
            Machine("left", self.authorities),
            Machine("right", self.authorities),
        )
        self.policy_json = policy_json(self.left, self.right, **changes)
        self.policy = Policy.parse(self.policy_json)
        self.guard = MemoryReplayGuard()
        self.order = self.make_order(**terms)
        self.signed = self.authorities.sign(self.order)

    def make_order(self, **terms: Any) -> Order:
        base: dict[str, Any] = {
            "version": 1,
            "clone_id": digest("clone")[:16],
            "freeze_group": digest("group")[:16],
            "project_id": "f00d" * 8,
            "user_id": "cafe" * 8,
            "source_server": digest("web-1")[:16],
            "destination_server": digest("web-1 clone")[:16],
            "source_host": "left",
            "destination_host": "right",
            "source_ak_name": self.left.tpm.ak_name,
            "destination_ak_name": self.right.tpm.ak_name,
            "disks": (("vda", 10 * MIB),),
            "memory_bytes": 64 * MIB,
            "policy_sha256": self.policy.sha256,
            "vtpm_mode": "new",
            "memory_mode": "lazy",
            "tenant_nonce": b"tenant's nonce",
            "issued_at": NOW,
            "expires_at": NOW + 600,
        }
        return Order(**(base | terms))

    def source(self, **changes: Any) -> SourceSession:
        parts = {
            "settings": self.left.local,
            "trust": self.authorities.anchors,
            "policy": self.policy,
            "signed_order": self.signed,
            "channel_certificate": b"exporter's certificate",
        }
        return SourceSession(**(parts | changes))  # type: ignore[arg-type]

    def destination(self, **changes: Any) -> DestinationSession:
        parts = {
            "settings": self.right.local,
            "trust": self.authorities.anchors,
            "policy": self.policy,
            "signed_order": self.signed,
            "channel_certificate": b"store's certificate",
            "replay_guard": self.guard,
        }
        return DestinationSession(**(parts | changes))  # type: ignore[arg-type]


Tamper = Callable[[str, bytes], bytes]


class Exchange:
    """Drives both sessions by messages in memory; ``tamper`` is the network (name of the message,
    its bytes)."""

    def __init__(
        self, world: World, tamper: Tamper = lambda name, data: data, **sides: Any
    ) -> None:
        self.world, self.tamper = world, tamper
        self.source = sides.get("source") or world.source()
        self.destination = sides.get("destination") or world.destination()
        self.source_tpm = sides.get("source_tpm") or world.left.tpm
        self.destination_tpm = sides.get("destination_tpm") or world.right.tpm
        self.source_vtpm: Vtpm | None = None
        self.vtpm: Vtpm | None = None
        self.done: list[tuple[str, actions.Action]] = []
        self.messages: dict[str, bytes] = {}

    def feed(self, side: str, event: events.Event) -> list[actions.Action]:
        """Feed a session, make its quotes, carry its messages; return what was left to do on that
        side."""
        session = self.source if side == "source" else self.destination
        left: list[actions.Action] = []
        pending = deque(session.handle(event))
        while pending:
            action = pending.popleft()
            self.done.append((side, action))
            if isinstance(action, actions.MakeQuote):
                tpm = self._signer(side, action.signer)
                made = tpm.quote(action.qualifying_data, action.pcrs)
                pending.extend(session.handle(events.QuoteMade(action.purpose, *made)))
            elif isinstance(action, actions.Send):
                name = self._name(action.data)
                data = self.tamper(name, action.data)
                self.messages[name] = data
                other = "destination" if side == "source" else "source"
                self.feed(other, events.MessageReceived(data, NOW))
            elif isinstance(action, actions.MakeVtpm):
                self.vtpm = self.world.right.vtpm("clone", action.inherited)
                self.feed(side, events.VtpmReady(self.vtpm.identity("new")))
            else:
                left.append(action)
        return left

    def _signer(self, side: str, signer: str) -> SoftwareTpm:
        if signer == "host":
            return self.source_tpm if side == "source" else self.destination_tpm
        vtpm = self.source_vtpm if side == "source" else self.vtpm
        assert vtpm is not None
        return vtpm.tpm

    @staticmethod
    def _name(data: bytes) -> str:
        import cbor2

        label: str = cbor2.loads(data)["message"]
        return label.rpartition("/")[2]

    def start(self) -> None:
        self.feed("destination", events.Start(NOW, digest("n2")))
        self.feed("source", events.Start(NOW, digest("seed")))

    def freeze(self, with_vtpm: bool = True, **changes: Any) -> None:
        identity = None
        if with_vtpm:
            self.source_vtpm = self.world.left.vtpm("web-1", [(4, digest("guest's loader"))])
            identity = self.source_vtpm.identity("source")
        base: dict[str, Any] = {
            "freeze_id": digest("group")[:16],
            "page_key": digest("page key"),
            "regions": REGIONS,
            "pause_us": 23_000,
            "vtpm": identity,
        }
        self.feed("source", events.FreezeDone(**(base | changes)))

    def transfer(self, root: bytes = ROOT, counts: Counts = COUNTS) -> None:
        self.feed("destination", events.TransferDone(root, counts))

    def finish(self, root: bytes = ROOT, counts: Counts = COUNTS) -> None:
        self.feed("source", events.TransferDone(root, counts))

    def run(self, with_vtpm: bool = True) -> Exchange:
        self.start()
        self.freeze(with_vtpm)
        self.transfer()
        self.finish()
        return self

    def actions(self, side: str, kind: type[Any]) -> list[Any]:
        return [action for name, action in self.done if name == side and isinstance(action, kind)]

    def failures(self, side: str) -> list[str]:
        """Codes of the failed checks with which a side refused."""
        found = self.actions(side, actions.Refused)
        return [check.code for refusal in found for check in refusal.verdict.failures]


def pem(*certificates: bytes) -> bytes:
    from cryptography import x509

    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        for der in certificates
    )
