"""ssh between the hosts: over it nova-compute copies the disks of a server that is resized or moved while it is stopped.

Each host has its own /etc/ssh, bound over the machine's; the machine's own keys and server are not touched. There is one key
for all hosts, as operators hand one out to their computes, and every host knows the others' host keys.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Sequence

from labkit import process
from labkit.cloud import rights
from labkit.cloud.nodes import Compute
from labkit.cloud.service import Service, listens

PLACE = "/etc/ssh"
PORT = 22
CLIENT = """\
Host *
    IdentityFile /etc/ssh/id
    IdentitiesOnly yes
    GlobalKnownHostsFile /etc/ssh/ssh_known_hosts
    UserKnownHostsFile none
    StrictHostKeyChecking yes
"""
SERVER = """\
ListenAddress {address}
Port {port}
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
PidFile none
Subsystem sftp internal-sftp
"""


def configure(hosts: Sequence[Compute]) -> None:
    """Make the keys and every host's files."""
    for host in hosts:
        _make_key(_place(host) / "host_key")
    first, *others = hosts
    _make_key(_place(first) / "id")
    for host in others:
        for name in ("id", "id.pub"):
            shutil.copy(_place(first) / name, _place(host) / name)
    known = "".join(f"{host.address} {_public(_place(host) / 'host_key')}" for host in hosts)
    for host in hosts:
        place = _place(host)
        (place / "ssh_known_hosts").write_text(known)
        (place / "ssh_config").write_text(CLIENT)
        (place / "sshd_config").write_text(SERVER.format(address=host.address, port=PORT))
        shutil.copy(place / "id.pub", place / "authorized_keys")
        if host.installed:
            # nova-compute's own; sshd lets the same user in.
            rights.give(rights.NOVA_ID, place / "id")


def service(host: Compute) -> Service:
    """The server of a host."""
    command = ("/usr/sbin/sshd", "-D", "-e", "-f", f"{PLACE}/sshd_config")
    return Service(f"sshd-{host.name}", host, command, listens(host, PORT))


def start(host: Compute) -> None:
    """Start the server of a host."""
    # Its compiled-in empty directory, which an init script would make.
    pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    service(host).start()


def _place(host: Compute) -> pathlib.Path:
    return host.base / "ssh"


def _make_key(path: pathlib.Path) -> None:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.parent.parent.name]
    process.run([*words, "-f", path])


def _public(path: pathlib.Path) -> str:
    return path.with_name(f"{path.name}.pub").read_text()
