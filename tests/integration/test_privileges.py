"""Nothing of a clone's data plane needs a privilege but two daemons, which have the least that does."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from labkit.guests import Guest
from labkit.paths import CHECKOUT
from oslo_privsep import capabilities

from .unprivileged import USER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

GUEST_MEMORY = (
    capabilities.CAP_SYS_PTRACE,
    capabilities.CAP_DAC_READ_SEARCH,
    capabilities.CAP_SYS_NICE,
)


def mask(numbers: tuple[int, ...]) -> int:
    return sum(1 << number for number in numbers)


def test_a_freeze_an_exporter_and_a_store_run_as_an_ordinary_user(source_guest: Guest) -> None:
    host = source_guest.host
    place = host.state_path / "unprivileged"
    place.mkdir()
    # The ordinary user goes through to its directory and to libvirt's socket.
    for path in (host.paths.run, host.run_dir, host.state_path):
        path.chmod(0o711)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.integration.unprivileged"),
            *(host.uri, source_guest.uuid, str(place)),
        ],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])

    nobody_special = {"user": USER, "capabilities": 0}
    assert found["own"] == found["exporter"] == found["store"] == nobody_special
    held = {row["capabilities"] for row in found["children"].values()}
    assert held == {0, mask(GUEST_MEMORY), mask((capabilities.CAP_SYS_ADMIN,))}

    # Memory was read in place, and by comparison nothing was read wrong.
    assert found["drain"]["failed"] is None
    assert found["drain"]["pages_read_in_place"] > 0
    assert found["mounted"] == [str(place / "mnt" / ("ab" * 16))]
    assert found["left"] == []
    assert sorted(path.name for path in place.iterdir()) == ["freeze", "mnt", "stores"]
    assert source_guest.console.check_itself().bad == 0


def test_without_its_daemon_an_ordinary_user_may_not_look(source_guest: Guest) -> None:
    look = (
        "import os, sys; from nova_trusted_clone.hypervisor.qemu.process import mappings, of_domain\n"
        f"os.setgroups([]); os.setresgid({USER}, {USER}, {USER}); os.setresuid({USER}, {USER}, {USER})\n"
        "mappings(of_domain(sys.argv[1]).pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, source_guest.uuid],
        capture_output=True,
        text=True,
        cwd=pathlib.Path("/"),
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        check=False,
    )
    assert "HypervisorError" in done.stderr
    assert "its smaps: Permission denied" in done.stderr
