"""Nothing of a clone's data plane needs a privilege but two daemons, which have the least that does.

Needs root, to give it away.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from oslo_privsep import capabilities

from .unprivileged import FREEZE, USER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUEST_MEMORY = (
    capabilities.CAP_SYS_PTRACE,
    capabilities.CAP_DAC_READ_SEARCH,
    capabilities.CAP_SYS_NICE,
)
NOBODY_SPECIAL = {"user": USER, "capabilities": 0}
# QEMU's user is neither root nor the service's.
QEMU_USER = 64998


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory that any user can reach; pytest's own are its user's alone."""
    found = pathlib.Path("/var/tmp") / f"ntc-privileges-{os.getpid()}"
    found.mkdir(mode=0o711)
    yield found
    shutil.rmtree(found)


@pytest.fixture
def guest(place: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is named like QEMU and runs as another user."""
    program = place / "qemu-system-x86_64"
    shutil.copy("/bin/sleep", program)
    program.chmod(0o755)
    running = subprocess.Popen([program, "300"], user=QEMU_USER, group=QEMU_USER, extra_groups=[])
    yield running
    running.kill()
    running.wait()


def test_exporter_and_store_run_as_an_ordinary_user(
    guest: subprocess.Popen[bytes], place: pathlib.Path
) -> None:
    content = place / "content"
    content.write_bytes(os.urandom(2 << 20))
    content.chmod(0o644)
    work = place / "work"
    work.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.integration.unprivileged"),
            *(str(content), str(guest.pid), str(work)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])

    assert found["own"] == found["exporter"] == found["store"] == NOBODY_SPECIAL
    held = {row["capabilities"] for row in found["children"]}
    assert held == {0, mask(GUEST_MEMORY), mask((capabilities.CAP_SYS_ADMIN,))}
    assert "qemu-system-x86_64" in found["stack"]

    assert found["served"] == hashlib.sha256(content.read_bytes()).hexdigest()
    assert found["mounted"] == [str(work / "mnt" / FREEZE)]
    assert found["left"] == []
    assert sorted(path.name for path in work.iterdir()) == ["mnt", "stores"]


def mask(numbers: tuple[int, ...]) -> int:
    return sum(1 << number for number in numbers)


def test_without_its_daemon_an_ordinary_user_may_not_look(guest: subprocess.Popen[bytes]) -> None:
    look = "import sys; from nova_trusted_clone.hypervisor.qemu.process import mappings; mappings(int(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", look, str(guest.pid)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        user=USER,
        group=USER,
        extra_groups=[],
        check=False,
    )
    assert "HypervisorError" in done.stderr
    assert "its smaps: Permission denied" in done.stderr
