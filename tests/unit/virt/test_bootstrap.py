"""``compute_driver = trusted_clone.LibvirtDriver`` is importable once os-vif has loaded its plugins."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[3]

# What nova-compute does (nova.cmd.compute, nova.virt.driver.load_compute_driver), in a process of its own: nova.virt's
# search path must be as a fresh service finds it.
AS_NOVA_COMPUTE = """
import importlib
import nova.virt
import os_vif.objects
os_vif.objects.register_all()
before = list(nova.virt.__path__)
from nova_trusted_clone.virt.bootstrap import Bootstrap
plugin = Bootstrap.load("trusted_clone")
added = [path for path in nova.virt.__path__ if path not in before]
from nova_trusted_clone.virt import bootstrap
bootstrap.extend_search_path()
assert [path for path in nova.virt.__path__ if path not in before] == added and len(added) == 1, added
module = importlib.import_module("nova.virt.trusted_clone")
from nova.virt import driver
from nova.virt.libvirt.driver import LibvirtDriver
assert issubclass(module.LibvirtDriver, LibvirtDriver)
assert issubclass(module.LibvirtDriver, driver.ComputeDriver)
assert plugin.describe().plugin_name == "trusted_clone" and plugin.describe().vif_info == []
assert module.__name__ == "nova.virt.trusted_clone"
"""


def test_nova_finds_the_driver() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AS_NOVA_COMPUTE],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_os_vif_loads_it_by_its_entry_point() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["os_vif"] == {"trusted_clone": "nova_trusted_clone.virt.bootstrap:Bootstrap"}
