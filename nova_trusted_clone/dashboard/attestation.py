"""The checks of stored evidence, by the offline verifier's own functions, and whom each is about.

The operator's roots and policies are files that the dashboard's settings name. Who does not trust the dashboard takes the
evidence and verifies it elsewhere: the page says how.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from nova_trusted_clone.client import proof
from nova_trusted_clone.client.values import Clone
from nova_trusted_clone.core.attest import tpm_structs
from nova_trusted_clone.core.attest.certchain import MAX_BUNDLE_BYTES, TrustAnchors
from nova_trusted_clone.core.attest.policy import MAX_POLICY_BYTES, Policy
from nova_trusted_clone.core.attest.verdict import Check, Verdict
from nova_trusted_clone.core.errors import CoreError
from nova_trusted_clone.core.protocol import checks, evidence
from nova_trusted_clone.core.protocol.evidence import Conversation, Part
from nova_trusted_clone.core.protocol.messages import PageKeyByVtpm, VtpmProof
from nova_trusted_clone.core.terminal import clean

LOG = logging.getLogger(__name__)

# The settings of ``local_settings.py``.
ANCHORS, POLICIES = "TRUSTED_CLONE_ANCHORS_FILE", "TRUSTED_CLONE_POLICY_FILES"
TITLES = {
    "file": _("The file: your nonce, and what it says in plain words"),
    "order": _("The order, signed by the control plane"),
    "challenge": _("Who it is, and what it booted"),
    "answer": _("Who it is, and what it booted"),
    "confirmation": _("It answers now: nothing is replayed"),
    "vtpm": _("The clone's vTPM is on this host, and inherits PCR 1–7"),
    "page_key": _("The freeze, and who vouches for its pages"),
    "final": _("What was sent, from the same boot of the host"),
    "receipt": _("What arrived, at the same boot of the host"),
}
COUNTS = (
    ("segments", _("Segments")),
    ("leaves", _("Pages")),
    ("zero_leaves", _("Pages of Zeros")),
    ("bytes", _("Bytes")),
)
# About whom the messages are.
SOURCE, DESTINATION, REQUEST = "source", "destination", "request"
ABOUT: Mapping[str, tuple[str, ...]] = {
    SOURCE: ("challenge", "confirmation", "page_key", "final"),
    DESTINATION: ("answer", "vtpm", "receipt"),
    REQUEST: ("order", "file"),
}


@dataclasses.dataclass(frozen=True)
class Section:
    """The checks of one message."""

    name: str
    title: Any
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether there are some and all hold."""
        return bool(self.checks) and all(check.ok for check in self.checks)


@dataclasses.dataclass(frozen=True)
class Group:
    """The checks about the source's host, the destination's, or the request.

    :ivar host: its name in the evidence
    """

    about: str
    title: Any
    host: str
    sections: tuple[Section, ...]

    @property
    def ok(self) -> bool:
        """Whether each of its messages was judged and holds."""
        return len(self.sections) == len(ABOUT[self.about]) and all(
            section.ok for section in self.sections
        )

    @property
    def count(self) -> int:
        """How many checks were made."""
        return sum(len(section.checks) for section in self.sections)


@dataclasses.dataclass(frozen=True)
class VtpmIdentity:
    """Who a vTPM is: digest of its EK certificate, name of its AK. All in hexadecimal."""

    ek_certificate_sha256: str
    ak_name: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows.

    :ivar problem: why nothing could be judged, or an empty text
    :ivar holds: None when nothing was judged
    :ivar told: what the evidence says of the clone, judged or not
    """

    problem: Any = ""
    holds: bool | None = None
    groups: tuple[Group, ...] = ()
    failures: tuple[Check, ...] = ()
    count: int = 0
    told: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source_vtpm: VtpmIdentity | None = None
    clone_vtpm: VtpmIdentity | None = None


def report(data: bytes, clone: Clone, nonce: bytes) -> Report:
    """Judge evidence of a clone.

    :param nonce: the tenant's
    """
    try:
        talk = evidence.read(data)
        told = talk.summary()
        read = Report(
            told=told,
            source_vtpm=_source_vtpm(talk),
            clone_vtpm=_identity(checks.installed_proof(talk.vtpm, talk.receipt, talk.order)),
        )
        grounds = _grounds(talk.order.policy_sha256)
    except CoreError as error:
        return Report(problem=_("The evidence cannot be read: %s") % clean(str(error)), holds=False)
    except OSError as error:
        LOG.error("Evidence cannot be verified: %s", error)
        return dataclasses.replace(
            read, problem=_("The files to verify evidence by cannot be read; tell the operator.")
        )
    if grounds is None:
        return dataclasses.replace(
            read, problem=_("This dashboard has no certificates and policy to verify evidence by.")
        )
    judged = proof.judge(data, grounds, nonce, source_id=clone.source_id, server_id=clone.server_id)
    return dataclasses.replace(
        read,
        holds=judged.verdict.ok,
        groups=_groups(judged.parts, told),
        failures=tuple(map(_cleaned, judged.verdict.failures)),
        count=len(judged.verdict.checks),
    )


def _grounds(policy_sha256: bytes) -> proof.Grounds | None:
    """The operator's roots, and of the policies the one that the order was made under; the newest where none is.

    :raises OSError: if a file cannot be read
    """
    anchors, files = getattr(settings, ANCHORS, None), getattr(settings, POLICIES, None)
    if not anchors or not files:
        return None
    policies = [
        Policy.parse(proof.read(pathlib.Path(file), MAX_POLICY_BYTES))
        for file in ([files] if isinstance(files, str) else files)
    ]
    fitting = [policy for policy in policies if policy.sha256 == policy_sha256]
    return proof.Grounds(
        TrustAnchors.from_pem(proof.read(pathlib.Path(anchors), MAX_BUNDLE_BYTES)),
        (fitting or policies)[0],
    )


def _groups(parts: Iterable[Part], told: Mapping[str, Any]) -> tuple[Group, ...]:
    merged: dict[str, Verdict] = {}
    for part in parts:
        merged[part.name] = merged.get(part.name, Verdict()) + part.verdict
    titles = {
        SOURCE: (_("Source host"), told["source_host"]),
        DESTINATION: (_("Destination host"), told["destination_host"]),
        REQUEST: (_("Order and file"), ""),
    }
    return tuple(
        Group(
            about,
            title,
            clean(host),
            tuple(
                Section(name, TITLES[name], tuple(map(_cleaned, merged[name].checks)))
                for name in ABOUT[about]
                if name in merged
            ),
        )
        for about, (title, host) in titles.items()
    )


def _cleaned(check: Check) -> Check:
    return Check(clean(check.code), check.ok, clean(check.found), clean(check.expected))


def _source_vtpm(talk: Conversation) -> VtpmIdentity | None:
    return _identity(talk.page_key.vtpm) if isinstance(talk.page_key, PageKeyByVtpm) else None


def _identity(found: VtpmProof | None) -> VtpmIdentity | None:
    if found is None:
        return None
    return VtpmIdentity(
        hashlib.sha256(found.ek_chain[0]).hexdigest(),
        tpm_structs.parse_attestation_key(found.ak_public).name.hex(),
    )
