"""A tenant at a terminal: ``openstack`` and ``nova`` as programs, and what they leave behind."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from labkit.cloud import clients, settings
from labkit.cloud.cloud import Cloud

# A clone on two processors that emulate, beside a whole cloud.
LIMIT_S = 400
NONCE = re.compile(r"^Nonce, needed to verify the evidence: ([0-9a-f]+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed by ``-f json``."""
        assert self.out, f"it printed nothing; exit status {self.status}: {self.err}"
        return json.loads(self.out)

    def ok(self) -> Done:
        """This, which must have succeeded."""
        assert self.status == 0, f"exit status {self.status}: {self.err}{self.out}"
        return self

    @property
    def nonce(self) -> str:
        """The one that it said it had taken."""
        found = NONCE.search(self.err)
        assert found, self.err
        return found[1]


@dataclasses.dataclass
class Running:
    """A command that has not ended; what it says on standard error is in a file meanwhile."""

    process: subprocess.Popen[str]
    err: pathlib.Path

    def wait_until_it_says(self, pattern: str, limit_s: float = LIMIT_S) -> None:
        """Wait for a line of progress."""
        self._wait(
            lambda: bool(re.search(pattern, self.err.read_text(), re.MULTILINE)), pattern, limit_s
        )

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def done(self) -> Done:
        """Wait until it ends."""
        out, _ = self.process.communicate(timeout=LIMIT_S)
        return Done(self.process.returncode, out, self.err.read_text())

    def _wait(self, reached: Callable[[], bool], what: str, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not reached():
            said = self.err.read_text()
            assert self.process.poll() is None, f"it ended before it said {what}: {said}"
            assert time.monotonic() < deadline, f"it did not say {what}: {said}"
            time.sleep(0.1)


@dataclasses.dataclass(frozen=True)
class Tenant:
    """Somebody with a login and a directory of files."""

    cloud: Cloud
    directory: pathlib.Path
    user: str = "demo"

    @property
    def operator_files(self) -> tuple[str | pathlib.Path, ...]:
        """The options with the operator's roots and policy, got by a way that the tenant trusts."""
        operator = self.cloud.paths.hosts / "operator"
        return ("--ca", operator / "anchors.pem", "--policy", operator / "policy.json")

    def openstack(self, *words: object) -> Done:
        """Run a command to its end."""
        return self.start(*words).done()

    def nova(self, *words: object) -> Done:
        """Run a command of python-novaclient."""
        return self.start(*words, program="nova").done()

    def start(self, *words: object, program: str = "openstack") -> Running:
        """Start a command."""
        err = self.directory / f"stderr-{time.monotonic_ns()}"
        with err.open("w") as file:
            process = subprocess.Popen(
                [str(settings.BIN / program), *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=self.directory,
                env=self._environment(program),
                preexec_fn=_listen_to_ctrl_c,
            )
        return Running(process, err)

    def _environment(self, program: str) -> dict[str, str]:
        environment = clients.environment(self.cloud.control, self.user)
        if program == "nova":  # knows no clouds.yaml
            environment |= {
                "OS_AUTH_URL": settings.AUTH_URL,
                "OS_USERNAME": self.user,
                "OS_PASSWORD": settings.PASSWORD,
                "OS_PROJECT_NAME": self.user,
                "OS_USER_DOMAIN_ID": "default",
                "OS_PROJECT_DOMAIN_ID": "default",
                "OS_REGION_NAME": settings.REGION,
                "OS_COMPUTE_API_VERSION": "2.1",
                "NOVACLIENT_UUID_CACHE_DIR": str(self.directory),
            }
        return environment


def _listen_to_ctrl_c() -> None:
    """Who runs in the background of a shell has none, and its children neither."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
