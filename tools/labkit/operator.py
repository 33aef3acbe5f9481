"""What the operator of a cloud does: certify hosts, say which of them are good, order clones.

On one machine here, with files in the lab's directory; the same calls are behind ``nova-trusted-clone-manage``, where each is
made on the machine that it belongs to.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

from labkit import hardware_tpm
from labkit.agent import Agent
from labkit.errors import LabError
from labkit.host import Host
from labkit.lab import Lab
from nova_trusted_clone.clone import admission, enrolment, identity
from nova_trusted_clone.clone.authority import Authority
from nova_trusted_clone.core.attest import eventlog, policy
from nova_trusted_clone.core.attest.quote import HOST_PCRS
from nova_trusted_clone.tpm.esys import EsysTpm

HOST_CLASS = "lab"


class Operator:
    """The operator of one lab. ``prepare`` does all that comes before the first clone."""

    def __init__(self, lab: Lab) -> None:
        """The authority is made at once; hosts are enrolled by name.

        :raises AuthorityError: when this lab has one already
        """
        self._lab = lab
        self._directory = lab.paths.hosts / "operator"
        makers = hardware_tpm.vendor_certificates(lab.paths.vendor_ca)
        self.authority = Authority.create(self._directory, "lab", makers)

    @property
    def anchors(self) -> pathlib.Path:
        """The operator's roots, a PEM bundle."""
        return self._directory / "anchors.pem"

    @property
    def policy(self) -> pathlib.Path:
        """The policy file."""
        return self._directory / "policy.json"

    def agent(self, host: Host) -> Agent:
        """The agent of ``host``, with the operator's roots and policy."""
        return Agent(host, self.anchors, self.policy)

    def prepare(self) -> None:
        """Enrol both hosts, learn their PCRs, start their agents."""
        for host in self._lab.hosts:
            self.enrol(host)
            self.learn(host)
        self.start_agents()

    def start_agents(self) -> None:
        """Configure and start the agents of both hosts."""
        for host in self._lab.hosts:
            agent = self.agent(host)
            agent.configure()
            agent.start()

    def enrol(self, host: Host) -> None:
        """Certify the host's AK after its TPM has proved it, and its vTPM CA, which from now on certifies guests' vTPMs."""
        with contextlib.closing(EsysTpm(host.tpm)) as tpm:
            asked = enrolment.request(tpm, host.name, host.identity)
            challenged = admission.challenge(self.authority, asked)
            answered = enrolment.respond(tpm, host.identity, challenged)
        enrolment.install(host.identity, admission.grant(self.authority, answered))
        installed = identity.load(host.identity)
        host.configure_swtpm_localca(installed.vtpm_ca_key, installed.vtpm_ca_certificate)

    def learn(self, host: Host) -> None:
        """Take the host's PCRs as good values of the lab's class of hosts.

        :raises LabError: when they do not follow from its boot log
        """
        with contextlib.closing(EsysTpm(host.tpm)) as tpm:
            values = tpm.read_pcrs(HOST_PCRS)
        replayed = eventlog.replay(eventlog.parse(host.event_log.read_bytes()))
        differing = [pcr for pcr in HOST_PCRS if replayed[pcr] != values[pcr]]
        if differing:
            raise LabError(f"{host.name}: PCR {differing} do not follow from {host.event_log}")
        known = self.policy.read_bytes() if self.policy.exists() else None
        self.policy.write_bytes(policy.learn(known, host.name, HOST_CLASS, values))

    def allow(self, **settings: Any) -> None:
        """Change settings of the policy (``allow_without_vtpm=True``); agents read it anew for each clone."""
        known = json.loads(self.policy.read_text())
        unknown = set(settings) - set(known) - {"max_order_seconds"}
        if unknown:
            raise LabError(f"the policy has no setting {', '.join(sorted(unknown))}")
        self.policy.write_text(json.dumps({**known, **settings}, indent=2))
