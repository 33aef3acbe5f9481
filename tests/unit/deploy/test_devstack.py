"""The DevStack plugin's functions, run by bash on real configuration files; the results are read by who will read them."""

from __future__ import annotations

import configparser
import contextlib
import getpass
import importlib
import json
import pathlib
import runpy
import shutil
import sqlite3
import stat
import subprocess
import sys

import pytest
from oslo_config import cfg

from nova_trusted_clone.conf import conductor as conductor_opts
from nova_trusted_clone.conf import opts
from nova_trusted_clone.core.attest import policy
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.attest.quote import HOST_PCRS

from .stage import LOCALCA, QEMU, ROOT, Stage

PCRS = {pcr: bytes([pcr]) * 32 for pcr in HOST_PCRS}


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The first of two nodes, configured; for tests that only read."""
    made = Stage(tmp_path_factory.mktemp("node-1"))
    made.set_up()
    furnish(made)
    made.phase("stack", "post-config", TRUSTED_CLONE_NODES="2")
    return made


@pytest.fixture
def node(tmp_path: pathlib.Path) -> Stage:
    """The first node, for which everything was made already but its configuration."""
    made = Stage(tmp_path)
    made.set_up()
    furnish(made)
    return made


def furnish(node: Stage) -> None:
    """What ``make_trusted_clone_fleet`` leaves, with made-up content but for the policy."""
    authority = node.data / "authority"
    authority.mkdir(parents=True)
    for name in ("anchors.pem", "control.key", "control.pem", "hosts.json"):
        (authority / name).write_text(f"{name}\n")
    for number in (1, 2):
        for part in ("identity", "tpm"):
            (node.fleet / f"node-{number}" / part).mkdir(parents=True)
        identity = node.fleet / f"node-{number}" / "identity"
        for name in ("ak.pem", "ak.pub", "vtpm-ca.pem", "vtpm-ca.key"):
            (identity / name).write_text(f"{name} of node {number}\n")
        (node.fleet / f"node-{number}" / "tpm" / "tpm2-00.permall").write_bytes(b"state")
    (node.fleet / "anchors.pem").write_text("anchors.pem\n")
    (node.fleet / "policy.json").write_bytes(policy.learn(None, "node-1", "devstack", PCRS))


def options(*files: pathlib.Path) -> cfg.ConfigOpts:
    """The product's options as its services read them."""
    conf = cfg.ConfigOpts()
    opts.register(conf)
    conductor_opts.register(conf)
    conf([f"--config-file={path}" for path in files], project="nova")
    return conf


def ini(path: pathlib.Path) -> configparser.RawConfigParser:
    """A file as paste.deploy and nova read it."""
    parser = configparser.RawConfigParser()
    parser.read(path)
    return parser


def own(found: configparser.RawConfigParser, section: str) -> dict[str, str]:
    """A section without what it has of [DEFAULT]."""
    return {name: value for name, value in found[section].items() if name not in found.defaults()}


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- nova --------------------------------------------------------------------------------------------------------------


def test_nova_compute_gets_the_driver_and_the_hosts_options(configured: Stage) -> None:
    nova = ini(configured.nova_conf)
    assert nova["DEFAULT"]["compute_driver"] == "trusted_clone.LibvirtDriver"
    assert nova["DEFAULT"]["transport_url"].startswith("rabbit://")
    assert own(nova, "libvirt") == {
        "virt_type": "qemu",
        "images_type": "qcow2",
        "swtpm_enabled": "True",
    }
    host = options(configured.nova_conf).trusted_clone
    assert host.host_id == "node-1"
    assert host.listen_address == "192.0.2.7"
    assert host.tpm == f"swtpm:{configured.data}/tpm.sock"
    assert host.privileged_access == "privsep"
    assert pathlib.Path(host.identity_path, "vtpm-ca.key").read_text() == "vtpm-ca.key of node 1\n"
    assert Policy.parse(pathlib.Path(host.policy_file).read_bytes()).hosts == {"node-1": "devstack"}
    assert host.memory_backing_dir in configured.qemu_conf.read_text()


def test_every_option_that_is_written_is_one(configured: Stage) -> None:
    written = set(own(ini(configured.nova_conf), "trusted_clone"))
    assert written <= {option.dest for option in opts.ALL}
    conductor = own(ini(configured.etc / "conductor.conf"), "trusted_clone_conductor")
    assert set(conductor) <= {o.dest for o in conductor_opts.ALL}


def test_the_compute_api_is_ours(configured: Stage) -> None:
    paste = ini(configured.paste)
    factory = paste["app:osapi_compute_app_v21"]["paste.app_factory"]
    module, _, name = factory.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)
    assert paste["composite:openstack_compute_api_v21"]["keystone"].endswith(
        "osapi_compute_app_v21"
    )


def test_where_horizon_is_enabled_the_dashboard_has_the_panel(tmp_path: pathlib.Path) -> None:
    made = Stage(tmp_path, services="n-api,n-cpu,tempest,horizon")
    made.set_up()
    furnish(made)
    local = tmp_path / "horizon" / "openstack_dashboard" / "local"
    (local / "enabled").mkdir(parents=True)
    where = {"HORIZON_DIR": str(tmp_path / "horizon")}
    made.phase("stack", "post-config", **where)
    made.phase("stack", "post-config", **where)
    (enabled,) = (local / "enabled").iterdir()
    assert runpy.run_path(str(enabled))["PANEL"] == "trusted_clones"
    (snippet,) = (local / "local_settings.d").iterdir()
    set_ = runpy.run_path(str(snippet))
    assert pathlib.Path(set_["TRUSTED_CLONE_ANCHORS_FILE"]).read_text()
    assert Policy.parse(pathlib.Path(*set_["TRUSTED_CLONE_POLICY_FILES"]).read_bytes()).hosts
    made.phase("clean", **where)
    assert not list(local.rglob("*.py"))


def test_the_conductor_alone_knows_the_database(configured: Stage) -> None:
    own = configured.etc / "conductor.conf"
    assert mode(own) == 0o600
    conf = options(own)
    assert conf.trusted_clone_database.connection.endswith("/nova_trusted_clone?charset=utf8")
    assert "trusted_clone_database" not in ini(configured.nova_conf)
    signer = pathlib.Path(conf.trusted_clone_conductor.signer_path)
    assert sorted(p.name for p in signer.iterdir()) == ["control.key", "control.pem", "hosts.json"]
    assert {mode(path) for path in signer.iterdir()} == {0o600}
    assert mode(signer) == 0o700


def test_configuring_twice_changes_nothing_more(node: Stage) -> None:
    files = (node.nova_conf, node.paste, node.qemu_conf, node.localca, node.etc / "conductor.conf")
    node.phase("stack", "post-config", TRUSTED_CLONE_NODES="2")
    once = [path.read_text() for path in files]
    node.phase("stack", "post-config", TRUSTED_CLONE_NODES="2")
    assert [path.read_text() for path in files] == once


# -- the host ----------------------------------------------------------------------------------------------------------


def test_libvirt_finds_clones_memory_and_this_hosts_vtpm_ca(configured: Stage) -> None:
    assert configured.qemu_conf.read_text() == (
        f'{QEMU}# begin of trusted clones\nmemory_backing_dir = "{configured.data}/ram"\n'
        "# end of trusted clones\n"
    )
    certifies = dict(line.split(" = ") for line in configured.localca.read_text().splitlines())
    assert pathlib.Path(certifies["signingkey"]).read_text() == "vtpm-ca.key of node 1\n"
    assert mode(pathlib.Path(certifies["signingkey"])) == 0o400
    assert pathlib.Path(certifies["issuercert"]).read_text() == "vtpm-ca.pem of node 1\n"
    assert "restart_service libvirtd" in configured.calls()


def test_qemu_goes_through_to_a_store_and_into_nothing_else(configured: Stage) -> None:
    for place in ("state", "ram", "ram/libvirt", "ram/libvirt/qemu"):
        assert mode(configured.data / place) == 0o711, place
    links = configured.data / "ram/libvirt/qemu"
    (access,) = [call for call in configured.calls() if call.startswith("systemd-tmpfiles ")]
    assert access == f"systemd-tmpfiles a+ {links} - - - - user:{getpass.getuser()}:rwx"
    assert mode(configured.etc / "identity") == 0o700
    assert {mode(path) for path in (configured.etc / "identity").iterdir()} == {0o600}


def test_apparmors_rules_name_devstacks_paths(configured: Stage) -> None:
    local = configured.place / "apparmor" / "local"
    for profile in ("abstractions/libvirt-qemu", "usr.lib.libvirt.virt-aa-helper"):
        text = (local / profile).read_text()
        assert text.startswith("# site's own\n")
        assert f"\n{configured.data}/state/mnt/" in text
        assert "/var/lib/nova-trusted-clone" not in text


def test_qemu_may_protect_its_memory(configured: Stage) -> None:
    (written,) = (configured.place / "sysctl").iterdir()
    assert "vm.unprivileged_userfaultfd = 1" in written.read_text()
    assert f"sysctl -q -p {written}" in configured.calls()


def test_a_node_without_compute_is_left_alone(tmp_path: pathlib.Path) -> None:
    controller = Stage(tmp_path, services="n-api")
    controller.set_up()
    furnish(controller)
    controller.phase("stack", "post-config")
    assert controller.qemu_conf.read_text() == QEMU
    assert "trusted_clone" not in ini(controller.nova_conf)
    assert (controller.etc / "conductor.conf").exists()


# -- the second node ---------------------------------------------------------------------------------------------------


@pytest.fixture
def second(tmp_path: pathlib.Path) -> Stage:
    """A node with nova-compute alone, to which node 1's files were copied."""
    made = Stage(tmp_path, services="n-cpu")
    made.set_up()
    furnish(made)
    shutil.rmtree(made.data)
    return made


def test_the_second_node_takes_what_the_first_made_for_it(second: Stage) -> None:
    # Multi-node set-ups copy with wide modes.
    for path in second.fleet.rglob("*"):
        path.chmod(0o755)
    second.phase("stack", "post-config", TRUSTED_CLONE_NODE="2")
    host = options(second.nova_conf).trusted_clone
    assert host.host_id == "node-2"
    key = pathlib.Path(host.identity_path, "vtpm-ca.key")
    assert key.read_text() == "vtpm-ca.key of node 2\n"
    assert mode(key) == 0o600
    assert mode(second.data / "tpm" / "tpm2-00.permall") == 0o600
    assert not (second.etc / "conductor.conf").exists()
    assert ini(second.paste)["app:osapi_compute_app_v21"]["paste.app_factory"].startswith(
        "nova.api"
    )


def test_a_node_that_was_not_foreseen_is_told_what_to_raise(second: Stage) -> None:
    done = second.run(f"source {ROOT}/devstack/plugin.sh stack post-config", TRUSTED_CLONE_NODE="3")
    assert done.returncode == 1
    assert "node 1 made no node-3: raise its TRUSTED_CLONE_NODES" in done.stderr


def test_a_node_without_node_1s_files_is_told_so(second: Stage) -> None:
    shutil.rmtree(second.fleet)
    done = second.run(f"source {ROOT}/devstack/plugin.sh stack post-config", TRUSTED_CLONE_NODE="2")
    assert done.returncode == 1
    assert "copy it from node 1" in done.stderr


def test_with_a_hardware_tpm_nothing_is_made_up(second: Stage) -> None:
    second.phase("stack", "post-config", TRUSTED_CLONE_NODE="2", TRUSTED_CLONE_SOFTWARE_TPM="False")
    host = options(second.nova_conf).trusted_clone
    assert host.tpm == "device:/dev/tpmrm0"
    assert host.host_id is None
    assert second.localca.read_text() == LOCALCA
    assert not any(call.startswith("run_process") for call in second.calls())


# -- settings ----------------------------------------------------------------------------------------------------------


def test_services_follow_what_runs_on_the_node(node: Stage, tmp_path: pathlib.Path) -> None:
    assert node.run("echo $ENABLED_SERVICES").stdout.strip() == (
        "n-api,n-cpu,tempest,trusted-clone-conductor,trusted-clone-tpm"
    )
    assert Stage(tmp_path, services="n-cpu").run("echo $ENABLED_SERVICES").stdout.strip() == (
        "n-cpu,trusted-clone-tpm"
    )
    assert Stage(tmp_path, services="key,g-api").run("echo $ENABLED_SERVICES").stdout.strip() == (
        "key,g-api"
    )


def test_a_node_without_nova_does_nothing(tmp_path: pathlib.Path) -> None:
    other = Stage(tmp_path, services="key,g-api")
    for words in (("stack", "pre-install"), ("stack", "post-config"), ("unstack",), ("clean",)):
        other.phase(*words)
    assert [call for call in other.calls() if not call.startswith(("define", "plugin"))] == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"TRUSTED_CLONE_NODES": "many"}, "TRUSTED_CLONE_NODES is 'many'"),
        ({"TRUSTED_CLONE_NODE": "0"}, "TRUSTED_CLONE_NODE is '0'"),
        (
            {"TRUSTED_CLONE_NODE": "2", "TRUSTED_CLONE_NODES": "2"},
            "the node with the API is node 1",
        ),
        ({"VIRT_DRIVER": "fake"}, "VIRT_DRIVER is fake"),
    ],
)
def test_settings_that_cannot_work_are_told_before_anything_is_installed(
    node: Stage, settings: dict[str, str], reason: str
) -> None:
    done = node.run(f"source {ROOT}/devstack/plugin.sh stack pre-install", **settings)
    assert done.returncode == 1
    assert reason in done.stderr


def test_the_defaults_can_work(node: Stage) -> None:
    """DevStack's own message queues per cell are overridden."""
    node.phase("stack", "pre-install")


# -- the phases --------------------------------------------------------------------------------------------------------


def test_the_package_is_installed_with_what_a_host_and_a_client_need(node: Stage) -> None:
    node.phase("stack", "install")
    assert f"setup_develop {ROOT} host,client" in node.calls()


def test_the_tpm_is_started_anew_before_nova_compute_is(node: Stage) -> None:
    log = node.data / "binary_bios_measurements"
    log.write_text("of the last boot")
    node.phase("stack", "post-config")
    (started,) = [call for call in node.calls() if call.startswith("run_process")]
    assert started.startswith("run_process trusted-clone-tpm /")
    assert f"--socket {node.data}/tpm.sock" in started
    assert log.read_text() == "ready\n"


def test_the_conductor_starts_when_its_database_is_there(node: Stage) -> None:
    """The database's tables are made by the real program, in a file."""
    node.phase("stack", "post-config")
    database = f"function database_connection_url {{ echo sqlite:///{node.place}/records.db; }}\n"
    done = node.run(
        f"{database}source {ROOT}/devstack/plugin.sh stack post-config\n"
        f"source {ROOT}/devstack/plugin.sh stack extra"
    )
    assert done.returncode == 0, done.stderr
    calls = [call.split()[:2] for call in node.calls()]
    created = calls.index(["recreate_database", "nova_trusted_clone"])
    assert created < calls.index(["run_process", "trusted-clone-conductor"])
    assert ["openstack", "--os-region-name=RegionOne"] in calls[created:]
    with contextlib.closing(sqlite3.connect(node.place / "records.db")) as found:
        tables = found.execute("select name from sqlite_master where type = 'table'").fetchall()
    assert ("alembic_version",) in tables


def test_the_tempest_plugin_learns_where_to_look(node: Stage) -> None:
    node.run("called flavor create")
    node.phase("stack", "test-config")
    tempest = ini(node.place / "tempest.conf")
    assert tempest["service_available"]["trusted_clone"] == "True"
    assert tempest["trusted_clone"]["flavor_ref"] == "0d1f6c3e"
    assert tempest["trusted_clone"]["anchors_file"] == str(node.etc / "anchors.pem")


def test_unstack_ends_what_was_started(node: Stage) -> None:
    node.phase("unstack")
    assert node.calls()[-2:] == [
        "stop_process trusted-clone-conductor",
        "stop_process trusted-clone-tpm",
    ]


def test_clean_leaves_the_host_as_it_was(node: Stage) -> None:
    node.phase("stack", "post-config", TRUSTED_CLONE_NODES="2")
    node.phase("clean")
    assert node.qemu_conf.read_text() == QEMU
    assert node.localca.read_text() == LOCALCA
    assert list((node.place / "sysctl").iterdir()) == []
    assert not any(path.exists() for path in (node.etc, node.data, node.fleet))
    local = node.place / "apparmor" / "local"
    assert (local / "abstractions/libvirt-qemu").read_text() == "# site's own\n"


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("TRUSTED_CLONE_ALLOW_WITHOUT_VTPM", "allow_without_vtpm"),
        ("TRUSTED_CLONE_ALLOW_VTPM_DERIVE", "allow_vtpm_derive"),
    ],
)
def test_the_policy_says_what_local_conf_allows(node: Stage, setting: str, name: str) -> None:
    path = node.fleet / "policy.json"
    node.functions(f"_set_policy {path}", **{setting: "yes"})
    changed = json.loads(path.read_text())
    before = json.loads(policy.learn(None, "node-1", "devstack", PCRS))
    assert changed == {**before, name: True}


def test_bashate_finds_no_fault_in_any_file() -> None:
    """With the options of tox."""
    names = ("plugin.sh", "settings", "override-defaults", "lib/trusted-clone")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bashate.bashate", "-i", "E006", "-e", "E005,E042,E043,E044"),
            *(str(ROOT / "devstack" / name) for name in names),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
