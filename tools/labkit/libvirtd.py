"""A libvirtd of a host's own: its configuration and its start."""

from __future__ import annotations

import pathlib
import shutil
import uuid

import libvirt

from labkit import process
from labkit.errors import LabError
from labkit.process import Process
from labkit.sandbox import Sandbox

START_LIMIT_S = 30.0

# No security driver, no cgroups, no device namespaces: each would need systemd or a kernel that a container rarely has.
QEMU_CONF = """\
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
memory_backing_dir = "{memory}"
relaxed_acs_check = 1
max_core = 0
"""
# The bare hosts: one machine's toy, whose images lie below a directory that only root may enter.
ALL_ROOT = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
swtpm_user = "root"
swtpm_group = "root"
"""
# An installed host: Debian's libvirt has its own users for QEMU and swtpm when none is named.
INSTALLED = ""

LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = {listens}
auth_tcp = "none"
unix_sock_group = "{group}"
unix_sock_rw_perms = "0770"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_dir = "{sockets}"
host_uuid = "{host_uuid}"
log_filters = "1:qemu 3:event 3:object 3:util 2:security"
log_outputs = "2:file:{log}"
"""


def configure(
    base: pathlib.Path,
    sockets: pathlib.Path,
    memory: pathlib.Path,
    migration: str | None = None,
    *,
    installed: bool = False,
) -> None:
    """Write the host's /etc/libvirt into ``base/etc``: Debian's, with our two files, and nothing that starts by itself.

    :param migration: the address at which live migrations arrive; the daemon then takes TCP from all who reach the host
    :param installed: QEMU and swtpm are users of their own, and who is in group libvirt may connect; otherwise all is root's
    """
    etc = base / "etc"
    if not etc.exists():
        shutil.copytree("/etc/libvirt", etc)
    shutil.rmtree(etc / "qemu", ignore_errors=True)
    (etc / "qemu").mkdir()
    sockets.mkdir(parents=True, exist_ok=True)
    memory.mkdir(parents=True, exist_ok=True)
    log = base / "log" / "libvirtd.log"
    log.parent.mkdir(exist_ok=True)
    arrivals = f'migration_address = "{migration}"\n' if migration else ""
    users = INSTALLED if installed else ALL_ROOT
    (etc / "qemu.conf").write_text(QEMU_CONF.format(memory=memory) + users + arrivals)
    (etc / "libvirtd.conf").write_text(
        LIBVIRTD_CONF.format(
            sockets=sockets,
            host_uuid=uuid.uuid4(),
            log=log,
            listens=int(migration is not None),
            group="libvirt" if installed else "root",
        )
    )


def start(sandbox: Sandbox, uri: str, listens: bool = False) -> Process:
    """Start libvirtd inside and wait until it answers at ``uri``.

    :param listens: whether it takes TCP connections, as ``configure`` was told
    :raises LabError: with the end of its log, when it does not
    """
    log = sandbox.base / "log" / "libvirtd.out"
    config = "/etc/libvirt/libvirtd.conf"
    command = [
        *sandbox.enter(),
        "/usr/sbin/libvirtd",
        "-f",
        config,
        "-p",
        "/run/libvirt/libvirtd.pid",
        *(["--listen"] if listens else []),
    ]
    daemon = process.start(command, log)
    daemon.save(sandbox.base / "libvirtd.json")
    if (
        not process.wait_until(lambda: not daemon.alive or _answers(uri), START_LIMIT_S)
        or not daemon.alive
    ):
        daemon.end()
        raise LabError(f"libvirtd of {sandbox.hostname} does not answer: {log.read_text()[-1500:]}")
    return daemon


def _answers(uri: str) -> bool:
    try:
        libvirt.open(uri).close()
    except libvirt.libvirtError:
        return False
    return True


def quieten() -> None:
    """Keep libvirt from printing each error that it also raises."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
