"""The tests and the checks before them, as ``tools/lab test`` runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from labkit.paths import CHECKOUT

PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest")
# Horizon cannot be installed beside nova.
HORIZON_PYTHON = str(CHECKOUT / ".venv-horizon" / "bin" / "python")
BROWSER_STORIES = "tests/openstack/horizon"
DASHBOARD = (HORIZON_PYTHON, "-m", "pytest", "tests/dashboard")
LINT = (
    (PYTHON, "-m", "ruff", "check", "."),
    (PYTHON, "-m", "ruff", "format", "--check", "."),
    (PYTHON, "-m", "mypy"),
    (PYTHON, "-m", "mypy", "tools/labkit", "bench"),
    (PYTHON, "-m", "sphinx", "-q", "-W", "-b", "html", "doc/source", "doc/build/html"),
)
# A hanging test must not use up the time of the whole run; the longest real one takes minutes under emulation.
INTEGRATION_LIMIT_S = 600
FUNCTIONAL_LIMIT_S = 300
# Emulated guests on two shared processors are late now and then. A story that fails is told once more, and the summary says so
# ("rerun"): what shows there more than once is a fault to look for.
INTEGRATION_RERUNS = 1
# Files of tests share nothing: each has hosts of its own. While one waits, for a limit or a guest, another has the processors.
SIDE_BY_SIDE = ("--numprocesses=auto", "--dist=loadfile")
# What to look at: stories that were told again, and what takes long.
SLOWEST = ("-rR", "--durations=40", "--durations-min=5")
# Tempest needs an environment of its own and its servers many minutes.
TEMPEST = "tests/openstack/test_tempest.py"
# In a cloud a story's longest part is often Nova's own.
OPENSTACK_LIMIT_S = 900
# Hosts that are emulated, whose guests are emulated once more.
XEN_LIMIT_S = 2400
# The same with nova-compute in each.
XEN_CLOUD_LIMIT_S = 2400
# Of the stories in a cloud, those that need no service to be killed or started anew: five minutes on a quiet machine.
CLOUD_STORIES = tuple(
    f"tests/openstack/test_{name}.py" for name in ("cloud", "client", "api", "operator")
)
PARTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "lint": LINT,
    "unit": ((*PYTEST, "tests/unit", "tests/fuzz", *SIDE_BY_SIDE),),
    "functional": ((*PYTEST, "tests/functional", f"--timeout={FUNCTIONAL_LIMIT_S}"),),
    "integration": (
        (
            *PYTEST,
            "tests/integration",
            *SIDE_BY_SIDE,
            f"--timeout={INTEGRATION_LIMIT_S}",
            f"--reruns={INTEGRATION_RERUNS}",
            *SLOWEST,
        ),
    ),
    "xen": ((*PYTEST, "tests/xen", f"--timeout={XEN_LIMIT_S}", "--durations=0"),),
    "xen-cloud": ((*PYTEST, "tests/xen_cloud", f"--timeout={XEN_CLOUD_LIMIT_S}", "--durations=0"),),
    "cloud": (
        (
            *PYTEST,
            *CLOUD_STORIES,
            f"--timeout={OPENSTACK_LIMIT_S}",
            f"--reruns={INTEGRATION_RERUNS}",
            *SLOWEST,
        ),
    ),
    "openstack": (
        (
            *PYTEST,
            "tests/openstack",
            f"--ignore={TEMPEST}",
            f"--ignore={BROWSER_STORIES}",
            # A cloud of which a part no longer works makes each further story wait for its limits.
            "--maxfail=3",
            f"--timeout={OPENSTACK_LIMIT_S}",
            f"--reruns={INTEGRATION_RERUNS}",
            *SLOWEST,
        ),
    ),
    "dashboard": (DASHBOARD,),
    "horizon": (
        DASHBOARD,
        (
            *PYTEST,
            BROWSER_STORIES,
            f"--timeout={OPENSTACK_LIMIT_S}",
            f"--reruns={INTEGRATION_RERUNS}",
            *SLOWEST,
        ),
    ),
    "tempest": ((*PYTEST, TEMPEST),),
}


# Asked for by name, so that the rest stays under an hour: "cloud", which is a part of "openstack"; the stories in a browser;
# tempest with a venv of its own; and those on Xen, which need two emulated machines, with a cloud and without.
BY_NAME = ("cloud", "horizon", "tempest", "xen", "xen-cloud")
WITHOUT_A_WORD = tuple(name for name in PARTS if name not in BY_NAME)


def run(part: str | None, further: Sequence[str]) -> int:
    """Run one part, or ``WITHOUT_A_WORD``, and return 1 when anything failed. A failed part does not stop the next.

    :param further: arguments for pytest
    """
    failed = []
    for name in [part] if part else WITHOUT_A_WORD:
        for command in PARTS[name]:
            words = [*command, *further] if command[:3] == PYTEST else list(command)
            began = time.monotonic()
            shown = " ".join(words[2:])
            print(f"lab: {shown}", flush=True)
            status = subprocess.run(words, cwd=CHECKOUT, env=environment(), check=False).returncode
            print(
                f"lab: {shown}: {'ok' if status == 0 else 'FAILED'}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
            if status:
                failed.append(shown)
    for shown in failed:
        print(f"lab: failed: {shown}", flush=True)
    return 1 if failed else 0


def bench(further: Sequence[str]) -> int:
    """Run the bench with ``further`` arguments; its exit status."""
    words = [PYTHON, "-m", "bench", *further]
    return subprocess.run(words, cwd=CHECKOUT, env=environment(), check=False).returncode


def environment() -> dict[str, str]:
    """The caller's, with labkit and the project to be imported from the checkout."""
    return {
        **os.environ,
        "PYTHONPATH": f"{CHECKOUT / 'tools'}:{CHECKOUT}",
        "MYPYPATH": str(CHECKOUT / "tools"),
    }
