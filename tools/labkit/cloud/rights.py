"""The users of a compute host's programs, as on an installed host: none of the cloud's own runs as root there.

==================  ===============  ==========================================================================
program             user             what it may not do is done by
==================  ===============  ==========================================================================
nova-compute        nova             oslo.privsep's daemons, started through ``sudo nova-rootwrap``
exporters, stores   nova             nobody: they are handed open files
QEMU                libvirt-qemu     libvirtd
guests' TPMs        tss              libvirtd
==================  ===============  ==========================================================================

The machine gets no new user: each host has an /etc of its own. A checkout below a
directory that only its owner may enter (``/root``) cannot be read by another user; then all of it runs as root, and the lab
says so.
"""

from __future__ import annotations

import functools
import pathlib
import shutil
import stat

from labkit import process
from labkit.cloud import settings
from labkit.paths import CHECKOUT, LabPaths
from labkit.sandbox import Binds

NOVA = "nova"
NOVA_ID = 64060  # Debian's
QEMU = "libvirt-qemu"
TPM = "tss"
# nova-compute's, as the packages and the install guide have it: libvirt's socket, the TPM's device.
GROUPS = ("libvirt", TPM)
CONFIG = pathlib.PurePosixPath("/etc/nova")
ETC = "machine-etc"
BINDS: Binds = ((ETC, "/etc"),)
SUDOERS = """\
Defaults:{user} !requiretty, !use_pty
Defaults:{user} secure_path="{bin}:/usr/sbin:/usr/bin:/sbin:/bin"
{user} ALL = (root) NOPASSWD: {bin}/nova-rootwrap {config}/rootwrap.conf *
"""
USERFAULTFD = pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd")


@functools.cache
def are_ordinary(root: pathlib.Path) -> bool:
    """Whether other users than root reach all that they need: the venv, the checkout, the lab's directory ``root``."""
    places = (settings.BIN, CHECKOUT, root)
    above = {parent for place in places for parent in (place.resolve(), *place.resolve().parents)}
    return all(not parent.exists() or parent.stat().st_mode & stat.S_IXOTH for parent in above)


def ordinary(paths: LabPaths) -> bool:
    """Whether the hosts of this lab run as installed ones do."""
    return are_ordinary(paths.root)


def allow_freezes() -> None:
    """Let a QEMU that is not root write-protect its memory, as etc/sysctl.d does. A setting of the whole machine; it stays."""
    USERFAULTFD.write_text("1\n")


def furnish(base: pathlib.Path, conf: pathlib.Path) -> None:
    """Make a host's own /etc in its directory ``base``: the machine's, with user nova, what sudo lets it do, and /etc/nova.

    A whole directory: a file that was bound over another would show again when the machine's passwd is replaced.
    """
    etc = base / ETC
    process.run(["cp", "--archive", "/etc", etc])
    passwd, group = (etc / name for name in ("passwd", "group"))
    line = f"{NOVA}:*:{NOVA_ID}:{NOVA_ID}::/var/lib/nova:/bin/sh"
    passwd.write_text("\n".join([*_others(passwd), line, ""]))
    joined = [_join(line) for line in _others(group)]
    group.write_text("\n".join([*joined, f"{NOVA}:x:{NOVA_ID}:", ""]))
    # sudo looks for the address of its host's name.
    (etc / "hosts").write_text(f"127.0.0.1 localhost {base.name}\n")
    sudoers = etc / "sudoers.d" / NOVA
    sudoers.write_text(SUDOERS.format(user=NOVA, bin=settings.BIN, config=CONFIG))
    sudoers.chmod(0o440)
    (etc / "nova").mkdir(exist_ok=True)
    (conf / "nova").symlink_to(etc / "nova")


def _others(path: pathlib.Path) -> list[str]:
    """The lines of passwd or group but that of nova."""
    return [line for line in path.read_text().splitlines() if not line.startswith(f"{NOVA}:")]


def _join(group: str) -> str:
    """A line of group, with nova among the members where it belongs to it."""
    if group.split(":")[0] not in GROUPS:
        return group
    return f"{group}{NOVA}" if group.endswith(":") else f"{group},{NOVA}"


def configure_rootwrap(directory: pathlib.Path) -> None:
    """What root does for nova: Nova's own list; this project needs no line in it."""
    shipped = settings.SHARED_CONFIG / "nova"
    text = (shipped / "rootwrap.conf").read_text()
    (directory / "rootwrap.conf").write_text(
        text.replace("exec_dirs=", f"exec_dirs={settings.BIN},")
    )
    shutil.copytree(shipped / "rootwrap.d", directory / "rootwrap.d")


def give(user: int, place: pathlib.Path) -> None:
    """Make ``place`` and all below it the user's and its group's."""
    process.run(["chown", "-R", f"{user}:{user}", place])


def as_nova() -> tuple[str, ...]:
    """The words before a program of user nova's; it keeps its pid."""
    return ("setpriv", f"--reuid={NOVA}", f"--regid={NOVA}", "--init-groups", "--")
