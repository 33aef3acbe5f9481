"""The product's agent on a host of the lab: its configuration, its start, and what is asked of it."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping

from labkit import process
from labkit.errors import LabError
from labkit.host import Host
from labkit.process import Process
from nova_trusted_clone.transport import rpc

PEER_PORT = 8790
START_LIMIT_S = 30.0
ADMIN_LIMIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Agent:
    """The agent of one host.

    :ivar anchors: the operator's roots, a PEM bundle
    :ivar policy: the policy file
    """

    host: Host
    anchors: pathlib.Path
    policy: pathlib.Path

    @property
    def log(self) -> pathlib.Path:
        """What the agent says."""
        return self.host.base / "agent.log"

    @property
    def admin(self) -> rpc.Client:
        """Calls the agent as the operator does."""
        return rpc.Client(self.host.state_path / "admin.sock", ADMIN_LIMIT_S)

    def configure(self, further: Mapping[str, str] | None = None) -> None:
        """Write the configuration file.

        :param further: options that a test wants otherwise
        """
        host = self.host
        options = {
            "host_id": host.name,
            "identity_path": str(host.identity),
            "anchors_file": str(self.anchors),
            "policy_file": str(self.policy),
            "tpm": host.tpm,
            "event_log": str(host.event_log),
            "state_path": str(host.state_path),
            "libvirt_uri": host.uri,
            "memory_backing_dir": str(host.memory_backing_dir),
            "listen_address": host.address,
            "peer_port": str(PEER_PORT),
            **(further or {}),
        }
        lines = ["[DEFAULT]", "debug = true", "[trusted_clone]"]
        lines += [f"{name} = {value}" for name, value in options.items()]
        host.config_file.write_text("\n".join(lines) + "\n")

    def start(self) -> Process:
        """Start it inside the host and wait until it answers.

        :raises LabError: with the end of its log, when it does not
        """
        program = pathlib.Path(sys.executable).with_name("nova-trusted-clone-agent")
        command = [str(program), "--config-file", str(self.host.config_file)]
        running = self.host.start(command, self.log)
        running.save(self.host.base / "agent.json")
        ready = process.wait_until(lambda: self._answers() or not running.alive, START_LIMIT_S)
        if not ready or not running.alive:
            running.end()
            told = self.log.read_text(errors="replace")[-1500:]
            raise LabError(f"the agent of {self.host.name} does not answer: {told}")
        return running

    def stop(self) -> None:
        """End it; clones that run go on without it."""
        running = Process.load(self.host.base / "agent.json")
        if running is not None:
            running.end()

    def _answers(self) -> bool:
        try:
            self.admin.call("ping")
        except rpc.RpcError:
            return False
        return True
