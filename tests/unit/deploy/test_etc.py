"""The files for /etc agree with what the product does and with one another."""

from __future__ import annotations

import configparser
import fnmatch
import pathlib
import re

import pytest
from labkit import sandbox
from oslo_privsep.priv_context import PrivContext
from oslo_rootwrap import wrapper

from nova_trusted_clone.clone.stores import Store
from nova_trusted_clone.conf import opts
from nova_trusted_clone.hypervisor.qemu import memorylinks
from nova_trusted_clone.privsep import guest_memory_pctxt, mounts_pctxt

ETC = pathlib.Path(__file__).resolve().parents[3] / "etc"
STATE = pathlib.Path(next(o for o in opts.PLACES if o.dest == "state_path").default)
MOUNT = Store(STATE / "stores" / ("ab" * 16)).mount_path


@pytest.mark.parametrize(
    ("profile", "path", "access"),
    [
        ("abstractions/libvirt-qemu", MOUNT / "ram" / "web-1" / "pc.ram", "rw"),
        ("usr.lib.libvirt.virt-aa-helper", MOUNT / "disks" / "vda", "r"),
    ],
)
def test_apparmor_lets_in_where_a_store_is_mounted(
    profile: str, path: pathlib.Path, access: str
) -> None:
    text = (ETC / "apparmor.d" / "local" / profile).read_text()
    rules = dict(re.findall(r"^(/\S+) (\w+),$", text, re.MULTILINE))
    assert [rules[rule] for rule in rules if fnmatch.fnmatch(str(path), rule)] == [access]
    elsewhere = STATE / "clones" / ("ab" * 16) / "vtpm"
    assert not any(fnmatch.fnmatch(str(elsewhere), rule) for rule in rules)


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ETC / "systemd" / name)
    return parser


def test_a_restart_of_nova_compute_ends_no_store() -> None:
    service = unit("nova-compute.service.d/trusted-clone.conf")["Service"]
    assert service["KillMode"] == "process"
    # A mount namespace of its own would hide a store's mount from libvirt.
    own_namespace = (
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "ProtectSystem",
        "ProtectHome",
    )
    assert {service[name] for name in own_namespace} == {"no"}


def test_the_conductor_has_no_privilege() -> None:
    service = unit("nova-trusted-clone-conductor.service")["Service"]
    assert service["CapabilityBoundingSet"] == ""
    assert (service["User"], service["NoNewPrivileges"]) == ("nova", "yes")


def test_directories_let_qemu_through_and_list_nothing() -> None:
    lines = (ETC / "tmpfiles.d" / "nova-trusted-clone.conf").read_text().splitlines()
    made = [line.split() for line in lines if line.startswith("d ")]
    assert made[0][1] == str(STATE)
    assert {words[2] for words in made} == {"0711"}
    # systemd-tmpfiles goes from a user's directory to no other user's.
    for words in made:
        above = [w for w in made if words[1].startswith(w[1] + "/")]
        assert all(w[3] in ("root", words[3]) for w in above), words


def test_selinux_names_every_class_and_type_that_it_uses() -> None:
    text = (ETC / "selinux" / "nova_trusted_clone.te").read_text()
    required = text.partition("require {")[2].partition("}\n\n")[0]
    for kind, permissions in re.findall(r"^allow .*:(\w+) (\{[^}]*\}|\w+);$", text, re.MULTILINE):
        wanted = set(permissions.strip("{} ").split())
        declared = re.search(rf"class {kind} (\{{[^}}]*\}}|\w+);", required)
        assert declared, kind
        assert wanted <= set(declared[1].strip("{} ").split()), kind


@pytest.mark.parametrize("context", [guest_memory_pctxt, mounts_pctxt])
def test_rootwrap_starts_both_daemons_with_no_list_of_ours(context: PrivContext) -> None:
    """It starts any privsep-helper, as the install guide says."""
    command = ["privsep-helper", "--config-file", "/etc/nova/nova.conf"]
    command += ["--privsep_context", context.pypath, "--privsep_sock_path", "/tmp/x/privsep.sock"]
    assert any(one.match(command) for one in wrapper.load_filters([]))


def test_nova_gets_where_links_to_memory_are_laid_though_libvirtd_takes_the_directory() -> None:
    text = (ETC / "tmpfiles.d" / "nova-trusted-clone.conf").read_text()
    links = memorylinks.directory_of(pathlib.Path("/var/lib/nova-trusted-clone-ram"))
    assert f"a+ {links} - - - - user:nova:rwx" in text.splitlines()


def test_no_connection_of_the_hosts_own_takes_an_exporters_port() -> None:
    text = (ETC / "sysctl.d" / "60-nova-trusted-clone.conf").read_text()
    ports = {option.name: option.default for option in opts.NETWORK}
    reserved = f"{ports['bulk_port_min']}-{ports['bulk_port_max']}"
    assert f"\nnet.ipv4.ip_local_reserved_ports = {reserved}\n" in text
    assert reserved == sandbox.RESERVED_PORTS
