"""Both Xen hosts as an operator's: enrolled by their TPMs, their PCRs learned, the project's agent on each.

The operator's own part is done here, the hosts' part there, by the tool that an operator has (``nova-trusted-clone-manage``).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from labkit import hardware_tpm
from labkit.agent import PEER_PORT
from labkit.errors import LabError
from labkit.xen.hosts import XenHosts
from labkit.xen.machine import Machine
from nova_trusted_clone.clone import admission
from nova_trusted_clone.clone.authority import Authority
from nova_trusted_clone.clone.enrolment_files import Request, Response
from nova_trusted_clone.transport import rpc

HOST_CLASS = "xen-lab"
URI = "xen:///system"
# Hosts' own places; the one that is shared with this machine has nothing secret.
IDENTITY = "/etc/nova-trusted-clone/identity"
STATE = pathlib.PurePosixPath("/var/lib/nova-trusted-clone")
CONFIG = "/etc/nova-trusted-clone/agent.conf"
LOG = "/var/log/nova-trusted-clone-agent.log"
AGENT = "nova_trusted_clone.cmd.agent"
AGENT_PID = "/run/nova-trusted-clone-agent.pid"
# Emulated twice over, hosts need their time.
LIMITS = {"message_timeout_s": 300, "network_limit_s": 300}
VENV_PYTHON = "/opt/venv/bin/python"
MANAGE = (VENV_PYTHON, "-m", "nova_trusted_clone.cmd.manage")
START_LIMIT_S = 300.0
ASK_LIMIT_S = 120.0


@dataclasses.dataclass(frozen=True)
class XenAgent:
    """The agent of a Xen host."""

    machine: Machine

    @property
    def admin(self) -> rpc.Client:
        """Calls it as its operator does."""
        return rpc.Client(self.machine.run_dir / "admin.sock", ASK_LIMIT_S)


class Fleet:
    """The operator of the Xen hosts; ``prepare`` does all that comes before the first clone."""

    def __init__(
        self,
        hosts: XenHosts,
        directory: pathlib.Path | None = None,
        authority: Authority | None = None,
    ) -> None:
        """The authority is made at once, unless there is one.

        :param directory: the operator's, private
        :raises AuthorityError: when there is one already
        """
        self.hosts = hosts
        self._directory = directory or hosts.paths.root / "xen" / "operator"
        self.authority = authority or Authority.create(
            self._directory,
            "xen-lab",
            hardware_tpm.vendor_certificates(hosts.paths.root / "xen" / "tpm-vendor"),
        )

    @classmethod
    def opened(cls, hosts: XenHosts, directory: pathlib.Path) -> Fleet:
        """The operator whose directory is there already."""
        return cls(hosts, directory, Authority(directory))

    @property
    def policy(self) -> pathlib.Path:
        """The policy file."""
        return self._directory / "policy.json"

    def prepare(self, **settings: Any) -> None:
        """Enrol both hosts, learn their PCRs, start their agents.

        :param settings: as for ``enrol``
        """
        self.enrol(**settings)
        self.on_both(self.start_agent)

    def enrol(self, **settings: Any) -> None:
        """Enrol both hosts, learn their PCRs.

        :param settings: of the policy, other than its strict ones
        """
        self.on_both(self._enrol)
        # Each adds to what the other learned.
        for machine in self.hosts.machines:
            self._learn(machine)
        known = json.loads(self.policy.read_text())
        self.policy.write_text(json.dumps({**known, **settings}, indent=2))

    def on_both(self, step: Callable[[Machine], None]) -> None:
        """A step on both hosts at once: each is a processor's work."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(step, self.hosts.machines))

    def _enrol(self, machine: Machine) -> None:
        machine.run(["mkdir", "-p", "/etc/nova-trusted-clone"])
        shared = machine.shared
        asking = ["enrol", "request", "--host-id", machine.name, "--identity", IDENTITY]
        machine.run([*MANAGE, *asking, "--output", "/lab/request"])
        asked = Request.decode((shared / "request").read_bytes())
        (shared / "challenge").write_bytes(admission.challenge(self.authority, asked).encode())
        answering = ["enrol", "respond", "--identity", IDENTITY, "--challenge", "/lab/challenge"]
        machine.run([*MANAGE, *answering, "--output", "/lab/response"])
        answered = Response.decode((shared / "response").read_bytes())
        (shared / "grant").write_bytes(admission.grant(self.authority, answered).encode())
        machine.run([*MANAGE, "enrol", "install", "--identity", IDENTITY, "--grant", "/lab/grant"])

    def _learn(self, machine: Machine) -> None:
        """Its PCRs are a real firmware's: SeaBIOS measured its own boot, and its log must explain them."""
        passed = machine.shared / "policy.json"
        if self.policy.exists():
            passed.write_bytes(self.policy.read_bytes())
        words = ["policy", "learn", "--host", machine.name, "--host-class", HOST_CLASS]
        machine.run([*MANAGE, *words, "--policy", "/lab/policy.json"])
        self.policy.write_bytes(passed.read_bytes())

    def options(self, machine: Machine, limits: Mapping[str, int]) -> dict[str, str]:
        """Group ``[trusted_clone]`` of a host, whose files are there afterwards."""
        shared = machine.shared
        (shared / "policy.json").write_bytes(self.policy.read_bytes())
        (shared / "anchors.pem").write_bytes((self._directory / "anchors.pem").read_bytes())
        return {
            "host_id": machine.name,
            "identity_path": IDENTITY,
            "anchors_file": "/lab/anchors.pem",
            "policy_file": "/lab/policy.json",
            "tpm": "device:/dev/tpmrm0",
            "event_log": "/sys/kernel/security/tpm0/binary_bios_measurements",
            "state_path": str(STATE),
            "libvirt_uri": URI,
            "listen_address": machine.address,
            "peer_port": str(PEER_PORT),
            **{name: str(value) for name, value in limits.items()},
        }

    def _configure(self, machine: Machine, limits: Mapping[str, int]) -> None:
        lines = ["[DEFAULT]", "debug = true", "[trusted_clone]"]
        lines += [f"{name} = {value}" for name, value in self.options(machine, limits).items()]
        machine.run(["tee", CONFIG], script="\n".join(lines) + "\n")

    def start_agent(self, machine: Machine, module: str = AGENT, **limits: int) -> None:
        """Start a host's agent, in the place of one that runs already.

        :param module: a program of the tests in its place
        :param limits: options other than ``LIMITS``
        :raises LabError: it does not answer
        """
        self._configure(machine, {**LIMITS, **limits})
        former = f"[ ! -e {AGENT_PID} ] || {{ kill $(cat {AGENT_PID}); tail --pid=$(cat {AGENT_PID}) -f /dev/null; }}"
        command = f"setsid {VENV_PYTHON} -m {module} --config-file {CONFIG}"
        begin = f"{command} >>{LOG} 2>&1 </dev/null & echo $! >{AGENT_PID}"
        machine.run(["bash", "-c", f"{former}\n{begin}"])
        admin = machine.forward(STATE / "admin.sock", "admin.sock")
        deadline = time.monotonic() + START_LIMIT_S
        while not _answers(admin):
            if time.monotonic() > deadline:
                told = machine.run(["tail", "-n", "30", LOG])
                raise LabError(f"the agent of {machine.name} does not answer: {told}")
            time.sleep(1.0)

    def agent(self, machine: Machine) -> XenAgent:
        """The agent of a host."""
        return XenAgent(machine)

    def make_vtpm(self, machine: Machine, server_uuid: str) -> None:
        """Have a host make the vTPM that it keeps for a domain."""
        words = ["domain-vtpm", "make", "--server", server_uuid, "--identity", IDENTITY]
        machine.run([*MANAGE, *words, "--state-path", str(STATE)])


def _answers(socket: pathlib.Path) -> bool:
    try:
        rpc.Client(socket, ASK_LIMIT_S).call("ping")
    except rpc.RpcError:
        return False
    return True
