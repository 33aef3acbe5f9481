"""The AppArmor and SELinux rules, by the real compilers, into the real profiles and beside the types that they name.

Whether a kernel enforces them is not seen here: that needs one with the security module.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest

ETC = pathlib.Path(__file__).resolve().parents[2] / "etc"
MODULE = "nova_trusted_clone"
# Of policycoreutils: what semodule turns a package into before it links it.
PACKAGE_TO_CIL = "/usr/libexec/selinux/hll/pp"
VIRT_AA_HELPER = "/usr/lib/libvirt/virt-aa-helper"
SERVER = "8b1a4d2e-0000-4000-8000-000000000001"
LABEL = "system_u:object_r:nova_var_lib_t:s0"
LEVELS = """\
(mls true)
(sensitivity s0)
(sensitivityorder (s0))
(category c0)
(categoryorder (c0))
(sensitivitycategory s0 (c0))
(level systemlow (s0))
(levelrange low_high (systemlow systemlow))
(user system_u)
(userrole system_u object_r)
(userlevel system_u systemlow)
(userrange system_u low_high)
(role object_r)
(sid kernel)
(sidorder (kernel))
(sidcontext kernel (system_u object_r nova_t (systemlow systemlow)))
(roleattribute cil_gen_require)
(typeattribute cil_gen_require)
"""


def run(*words: object, cwd: pathlib.Path | None = None, script: str | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, input=script, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


# -- SELinux ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: pathlib.Path) -> pathlib.Path:
    """The module as the install guide makes it, in the language that semodule links."""
    guide = (
        ("checkmodule", "-M", "-m", "-o", f"{MODULE}.mod", ETC / "selinux" / f"{MODULE}.te"),
        (
            *("semodule_package", "-o", f"{MODULE}.pp", "-m", f"{MODULE}.mod"),
            *("-f", ETC / "selinux" / f"{MODULE}.fc"),
        ),
        (PACKAGE_TO_CIL, f"{MODULE}.pp", f"{MODULE}.cil"),
    )
    for words in guide:
        run(*words, cwd=tmp_path)
    return tmp_path / f"{MODULE}.cil"


def base_for(module: str) -> str:
    """A policy that has nothing but what a module requires: its types, and the classes with the permissions that it names."""
    types = {*re.findall(r"cil_gen_require (\w+)", module), "virtqemud_t"}
    classes: dict[str, set[str]] = {}
    for name, permissions in re.findall(r"\(allow \w+ \w+ \((\w+) \(([^)]*)\)", module):
        classes.setdefault(name, set()).update(permissions.split())
    lines = [f"(type {name})\n(roletype object_r {name})" for name in sorted(types)]
    lines += [f"(class {name} ({' '.join(sorted(all_))}))" for name, all_ in classes.items()]
    lines.append(f"(classorder ({' '.join(classes)}))")
    return "\n".join(lines) + "\n" + LEVELS


def linked(module: pathlib.Path) -> list[str]:
    """The file contexts of a policy that consists of the module and what it requires."""
    place = module.parent
    (place / "base.cil").write_text(base_for(module.read_text()))
    run("secilc", "-o", "policy", "-f", "contexts", "base.cil", module.name, cwd=place)
    assert (place / "policy").stat().st_size > 0
    return [re.sub(r"\s+", " ", line) for line in (place / "contexts").read_text().splitlines()]


def test_the_selinux_module_links_and_labels_both_directories(module: pathlib.Path) -> None:
    assert sorted(linked(module)) == [
        f"/var/lib/nova-trusted-clone(/.*)? {LABEL}",
        f"/var/lib/nova-trusted-clone-ram(/.*)? {LABEL}",
    ]


def test_a_selinux_module_that_names_an_unknown_type_does_not_link(module: pathlib.Path) -> None:
    """The compilers take it; that it is linked is what tells."""
    module.write_text(module.read_text() + "(allow nowhere_t svirt_t (file (read)))\n")
    with pytest.raises(AssertionError, match="Failed to resolve allow statement"):
        linked(module)


# -- AppArmor ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def profiles(tmp_path: pathlib.Path) -> pathlib.Path:
    """Debian's profiles with our lines appended, as the install guide does it."""
    made = tmp_path / "apparmor.d"
    shutil.copytree("/etc/apparmor.d", made)
    for name in ("abstractions/libvirt-qemu", "usr.lib.libvirt.virt-aa-helper"):
        with (made / "local" / name).open("a") as file:
            file.write((ETC / "apparmor.d" / "local" / name).read_text())
    return made


def rules(profiles: pathlib.Path, profile: pathlib.Path) -> list[str]:
    """A profile's text with everything that it includes; it must compile."""
    # Q: not into the kernel. T: the cache is not asked.
    run("apparmor_parser", "-QT", "--base", profiles, profile)
    text = run("apparmor_parser", "-QT", "--base", profiles, "--preprocess", profile)
    return [line.strip() for line in text.splitlines()]


def test_the_apparmor_rules_of_a_server_compile(profiles: pathlib.Path) -> None:
    template = (profiles / "libvirt" / "TEMPLATE.qemu").read_text()
    server = profiles / "libvirt" / f"libvirt-{SERVER}"
    server.write_text(template.replace("LIBVIRT_TEMPLATE", server.name))
    assert "/var/lib/nova-trusted-clone/mnt/*/ram/*/* rw," in rules(profiles, server)


def test_the_apparmor_rules_of_virt_aa_helper_compile(profiles: pathlib.Path) -> None:
    found = rules(profiles, profiles / "usr.lib.libvirt.virt-aa-helper")
    assert "/var/lib/nova-trusted-clone/mnt/*/disks/* r," in found


def test_an_apparmor_rule_that_is_none_does_not_compile(profiles: pathlib.Path) -> None:
    with (profiles / "local" / "usr.lib.libvirt.virt-aa-helper").open("a") as file:
        file.write("/var/lib/nova-trusted-clone/mnt/* sees,\n")
    with pytest.raises(AssertionError, match="syntax error"):
        rules(profiles, profiles / "usr.lib.libvirt.virt-aa-helper")


def test_libvirt_writes_the_served_disk_into_the_clones_own_profile(
    tmp_path: pathlib.Path,
) -> None:
    """What makes one rule for all servers needless: virt-aa-helper follows the overlay to what the store serves."""
    served, overlay = tmp_path / "mnt" / "disks" / "vda", tmp_path / "disk"
    served.parent.mkdir(parents=True)
    served.write_bytes(bytes(1 << 20))
    make = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", served, overlay)
    run(*make)
    definition = f"""
        <domain type='qemu'><name>clone</name><uuid>{SERVER}</uuid><memory>65536</memory><vcpu>1</vcpu>
        <os><type arch='x86_64' machine='q35'>hvm</type></os>
        <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{overlay}'/>
        <target dev='vda' bus='virtio'/></disk></devices></domain>"""
    told = run(VIRT_AA_HELPER, "--dryrun", "-c", "-u", f"libvirt-{SERVER}", script=definition)
    assert f'"{overlay}" rwk,' in told
    assert f'"{served}" rk,' in told
