"""A node that DevStack is about to set up: its files in a scratch directory, its functions stood in for."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pwd
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent
PASTE = """\
[composite:openstack_compute_api_v21]
use = call:nova.api.auth:pipeline_factory_v21
keystone = cors keystonecontext osapi_compute_app_v21

[app:osapi_compute_app_v21]
paste.app_factory = nova.api.openstack.compute:APIRouterV21.factory
"""
NOVA = """\
[DEFAULT]
compute_driver = libvirt.LibvirtDriver
transport_url = rabbit://stackrabbit:secret@192.0.2.1:5672/

[libvirt]
virt_type = qemu
"""
QEMU = '#memory_backing_dir = "/var/lib/libvirt/qemu/ram"\nmax_files = 32768\n'
LOCALCA = "statedir = /var/lib/swtpm-localca\nsigningkey = /var/lib/swtpm-localca/signkey.pem\n"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One node.

    :ivar place: holds everything that DevStack would keep below ``/``
    """

    place: pathlib.Path
    services: str = "n-api,n-cpu,tempest"

    @property
    def nova_conf(self) -> pathlib.Path:
        return self.place / "nova.conf"

    @property
    def paste(self) -> pathlib.Path:
        return self.place / "api-paste.ini"

    @property
    def qemu_conf(self) -> pathlib.Path:
        return self.place / "qemu.conf"

    @property
    def localca(self) -> pathlib.Path:
        return self.place / "swtpm-localca.conf"

    @property
    def data(self) -> pathlib.Path:
        return self.place / "data" / "nova-trusted-clone"

    @property
    def fleet(self) -> pathlib.Path:
        return self.place / "data" / "CA" / "trusted-clone"

    @property
    def etc(self) -> pathlib.Path:
        return self.place / "etc"

    def set_up(self) -> None:
        """The files of nova, libvirt and swtpm, as DevStack and the packages leave them."""
        for name in ("data", "localca", "apparmor/local/abstractions", "sysctl"):
            (self.place / name).mkdir(parents=True)
        self.nova_conf.write_text(NOVA)
        self.paste.write_text(PASTE)
        self.qemu_conf.write_text(QEMU)
        self.localca.write_text(LOCALCA)
        for profile in ("abstractions/libvirt-qemu", "usr.lib.libvirt.virt-aa-helper"):
            (self.place / "apparmor/local" / profile).write_text("# site's own\n")

    @property
    def environment(self) -> dict[str, str]:
        """What stack.sh and lib/nova have set when the plugin is called."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "STAND_INS": str(HERE),
            "CALLS": str(self.place / "calls"),
            "ENABLED_SERVICES": self.services,
            "DEST": str(self.place),
            "DATA_DIR": str(self.place / "data"),
            "TRUSTED_CLONE_DIR": str(ROOT),
            "TRUSTED_CLONE_CONF_DIR": str(self.etc),
            "STACK_USER": pwd.getpwuid(os.getuid()).pw_name,
            "HOST_IP": "192.0.2.7",
            "REGION_NAME": "RegionOne",
            "VIRT_DRIVER": "libvirt",
            "CELLSV2_SETUP": "superconductor",
            "NOVA_CONF": str(self.nova_conf),
            "NOVA_API_PASTE_INI": str(self.paste),
            "NOVA_BIN_DIR": str(pathlib.Path(sys.executable).parent),
            "QEMU_CONF": str(self.qemu_conf),
            "TEMPEST_CONFIG": str(self.place / "tempest.conf"),
            "SWTPM_LOCALCA_CONF": str(self.localca),
            "SWTPM_LOCALCA_DIR": str(self.place / "localca"),
            "APPARMOR_DIR": str(self.place / "apparmor"),
            "SYSCTL_DIR": str(self.place / "sysctl"),
        }

    def run(self, script: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run lines of bash where DevStack would, with ``settings`` of local.conf.

        The libraries are there, and errors end it, as in stack.sh.
        """
        preamble = (
            f"set -o errexit\nsource {HERE}/stand_ins.sh\n"
            f"source {ROOT}/devstack/override-defaults\nsource {ROOT}/devstack/settings\n"
        )
        return subprocess.run(
            [str(shutil.which("bash"))],
            input=preamble + script,
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            check=False,
        )

    def functions(self, *names: str, **settings: str) -> None:
        """Run functions of the plugin's library, one after the other."""
        done = self.run(
            "\n".join((f"source {ROOT}/devstack/lib/trusted-clone", *names)), **settings
        )
        assert done.returncode == 0, done.stderr

    def phase(self, *words: str, **settings: str) -> None:
        """Call the plugin as DevStack does."""
        done = self.run(f"source {ROOT}/devstack/plugin.sh {' '.join(words)}", **settings)
        assert done.returncode == 0, done.stderr

    def calls(self) -> list[str]:
        """What was asked of the machine."""
        path = self.place / "calls"
        return path.read_text().splitlines() if path.exists() else []
