"""The layers of the package map: imports point down only."""

import ast
import pathlib
import sys

import pytest

PACKAGE = "nova_trusted_clone"
ROOT = pathlib.Path(__file__).resolve().parents[2] / PACKAGE

# From the surfaces down. A package may import its own layer's row only where it is itself.
LAYERS = (
    ("dashboard",),
    ("api", "cmd", "virt", "client", "tempest_plugin"),
    ("assembly",),
    ("clone", "conductor"),
    ("rpc", "objects", "db", "policies", "notifications", "conf", "privsep"),
    ("transport", "datapath", "tpm", "vtpm", "hypervisor"),
    ("ports",),
    ("core",),
)
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}

# What an adapter may take from a neighbour in its own row, and why.
NEIGHBOURS = {
    ("datapath", "transport"),  # the bulk data runs over the transport's TLS
    ("vtpm", "tpm"),  # a vTPM is spoken to with TPM commands
    ("hypervisor", "datapath"),  # the sources that the exporter serves
    ("db", "objects"),  # what it keeps
    ("notifications", "objects"),  # what they tell of
    ("conductor", "clone"),  # the register of hosts, and the signer of orders
}
# The others know no nova: they work for an agent, a lab or a tenant's laptop as well.
MAY_IMPORT_NOVA = {"api", "virt", "rpc", "objects", "policies", "notifications", "conductor", "cmd"}
CORE_MAY_IMPORT = {"cbor2", "cryptography", PACKAGE}
# A laptop: core alone of this package, and what client-requirements.txt names.
CLIENT_MAY_IMPORT = {"cliff", "keystoneauth1", "openstack", "osc_lib", "requests", "rich"}
# Horizon has an environment of its own: core and client of this package, and what Horizon brings.
DASHBOARD_MAY_IMPORT = {"django", "horizon", "openstack_dashboard"}
CLIENT_EXTENSIONS = {"novaclient_ext.py": {"novaclient"}}
CORE_MUST_NOT = {"socket", "threading", "asyncio", "time", "logging", "subprocess", "random", "os"}


def imports_of(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def modules() -> list[pathlib.Path]:
    return [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent != ROOT or path.name == "ports.py"
    ]


def layer_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path):
    here = layer_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) < 2 or parts[1] not in DEPTH or parts[1] == here:
            continue
        allowed = DEPTH[parts[1]] > DEPTH[here] or (here, parts[1]) in NEIGHBOURS
        assert allowed, f"{here} must not import {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "core").rglob("*.py")), ids=lambda p: p.stem)
def test_the_core_does_no_io(path):
    for name in imports_of(path):
        top = name.split(".")[0]
        assert top not in CORE_MUST_NOT, f"core must not import {name}"
        assert top in sys.stdlib_module_names or top in CORE_MAY_IMPORT, (
            f"core must not import {name}"
        )


def test_adapters_know_no_nova():
    for path in modules():
        if layer_of(path) in MAY_IMPORT_NOVA:
            continue
        assert not any(name.split(".")[0] == "nova" for name in imports_of(path)), path


@pytest.mark.parametrize("path", sorted((ROOT / "client").rglob("*.py")), ids=lambda p: p.stem)
def test_the_client_needs_no_server(path):
    allowed = CLIENT_MAY_IMPORT | CLIENT_EXTENSIONS.get(path.name, set())
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == PACKAGE:
            assert parts[1:2] in ([], ["client"], ["core"]), f"client must not import {name}"
        else:
            assert parts[0] in sys.stdlib_module_names or parts[0] in allowed, (
                f"client must not import {name}"
            )


@pytest.mark.parametrize("path", sorted((ROOT / "dashboard").rglob("*.py")), ids=lambda p: p.stem)
def test_the_dashboard_needs_no_server(path):
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == PACKAGE:
            assert parts[1:2] in ([], ["dashboard"], ["client"], ["core"]), (
                f"dashboard must not import {name}"
            )
        else:
            assert parts[0] in sys.stdlib_module_names or parts[0] in DASHBOARD_MAY_IMPORT, (
                f"dashboard must not import {name}"
            )
