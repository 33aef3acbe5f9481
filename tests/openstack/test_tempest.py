"""Tempest with this project's plugin, in a venv of its own, against the running cloud. Only when it is asked for by name."""

from __future__ import annotations

import subprocess

import pytest
from labkit.cloud import tempest
from labkit.cloud.cloud import Cloud
from labkit.paths import CHECKOUT

RUN_LIMIT_S = 1500
VENV = CHECKOUT / ".lab" / "tempest-venv"


@pytest.mark.timeout(RUN_LIMIT_S + 600)
def test_the_plugins_tests_pass(cloud: Cloud, nothing_left) -> None:  # type: ignore[no-untyped-def]
    """Boot, clone, reach, prove; abort; refusals: as somebody who knows tempest runs them."""
    program = tempest.install(VENV)
    workspace = tempest.configure(cloud, program)
    with nothing_left():
        done = subprocess.run(
            tempest.command(cloud, program, workspace),
            env={"PATH": f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(workspace)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " - Failed: 0" in done.stdout
    assert " - Skipped: 0" in done.stdout, done.stdout[-3000:]
