"""What DevStack's first node makes for all nodes, with real software TPMs: each is enrolled, and its boot is in the policy."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from labkit.process import wait_until

from nova_trusted_clone.clone import identity
from nova_trusted_clone.core.attest import eventlog
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.quote import HOST_PCRS
from nova_trusted_clone.tpm.esys import EsysTpm
from tests.unit.deploy.stage import ROOT, Stage

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The first of two nodes, set up up to where nova's services start; its path is short, for sockets."""
    made = Stage(tmp_path_factory.mktemp("n"))
    made.set_up()
    made.phase(
        "stack", "post-config", TRUSTED_CLONE_NODES="2", TRUSTED_CLONE_ALLOW_VTPM_DERIVE="True"
    )
    return made


def test_every_node_is_enrolled(node: Stage) -> None:
    enrolled = [identity.load(node.fleet / f"node-{n}" / "identity").host_id for n in (1, 2)]
    assert enrolled == ["node-1", "node-2"]
    register = json.loads((node.etc / "signer" / "hosts.json").read_text())
    assert "node-1" in json.dumps(register)
    assert "node-2" in json.dumps(register)
    assert identity.load(node.etc / "identity").host_id == "node-1"


def test_the_policy_knows_both_and_what_local_conf_allows(node: Stage) -> None:
    policy = Policy.parse((node.etc / "policy.json").read_bytes())
    assert policy.hosts == {"node-1": "devstack", "node-2": "devstack"}
    assert (policy.allow_vtpm_derive, policy.allow_without_vtpm) == (True, False)


@contextlib.contextmanager
def powered_on(node: Stage) -> Iterator[pathlib.Path]:
    """The first node's TPM as its unit runs it; its boot log."""
    log = node.data / "log"
    log.unlink(missing_ok=True)
    command = [
        *(sys.executable, str(ROOT / "devstack/tools/software_tpm.py")),
        *("--state", str(node.data / "tpm"), "--socket", str(node.data / "tpm.sock")),
        *("--event-log", str(log), "--serial", "node-1"),
    ]
    with subprocess.Popen(command) as running:
        try:
            assert wait_until(log.exists, 20)
            yield log
        finally:
            running.terminate()
            assert running.wait(10) == 0


def test_each_start_measures_the_boot_that_the_policy_knows(node: Stage) -> None:
    policy = Policy.parse((node.etc / "policy.json").read_bytes())
    allowed = policy.host_classes["devstack"]
    for _start in range(2):
        with (
            powered_on(node) as log,
            contextlib.closing(EsysTpm(f"swtpm:{node.data}/tpm.sock")) as tpm,
        ):
            values = tpm.read_pcrs(HOST_PCRS)
            replayed = eventlog.replay(eventlog.parse(log.read_bytes()))
        assert all(values[pcr] in allowed[pcr] for pcr in HOST_PCRS)
        assert all(values[pcr] == replayed[pcr] for pcr in HOST_PCRS)


def test_making_it_again_changes_nothing(node: Stage) -> None:
    before = (node.fleet / "policy.json").read_bytes()
    node.functions("make_trusted_clone_fleet", TRUSTED_CLONE_NODES="2")
    assert (node.fleet / "policy.json").read_bytes() == before
