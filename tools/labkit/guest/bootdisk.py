"""A disk that boots the guest by itself, as an image service wants it: one FAT file system with syslinux, no partitions.

Made by file tools alone (mtools, syslinux): no loop device, no mount.
"""

from __future__ import annotations

import fcntl
import hashlib
import pathlib

from labkit import process
from labkit.guest import image

# The guest's program leaves these to the boot files and checks the disk behind them.
BOOT_MIB = 48
CONFIG = """\
DEFAULT guest
PROMPT 0
LABEL guest
KERNEL vmlinuz
INITRD initrd.gz
APPEND {command_line}
"""
# Several guests share two processors with a whole cloud: they write and check at a walk.
COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on"
    f" rate=100 diskrate=5 diskblocks=1024 rest=60 dhcp=1 bootmib={BOOT_MIB}"
)


def build(cache: pathlib.Path) -> pathlib.Path:
    """Make the disk in ``cache``, or take it from there when nothing it is made of has changed; a raw image.

    :raises LabError: when what it is made of cannot be had
    """
    boot = image.build(cache, dhcp=True)
    with (cache / "bootdisk.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        disk = cache / f"bootdisk-{_hash(boot)}.raw"
        if not disk.exists():
            for outdated in cache.glob("bootdisk-*.raw"):
                outdated.unlink()
            _make(boot, disk)
        return disk


def _hash(boot: image.BootImage) -> str:
    """The initramfs has the hash of all that it is made of in its name."""
    made_of = f"{boot.kernel.name} {boot.initramfs.name} {COMMAND_LINE}".encode()
    return hashlib.sha256(made_of + pathlib.Path(__file__).read_bytes()).hexdigest()[:16]


def _make(boot: image.BootImage, target: pathlib.Path) -> None:
    scratch = target.with_suffix(".new")
    config = target.with_suffix(".cfg")
    config.write_text(CONFIG.format(command_line=COMMAND_LINE))
    with scratch.open("wb") as disk:
        disk.truncate(BOOT_MIB << 20)
    process.run(["mkfs.vfat", "-F", "16", "-n", "GUEST", scratch])
    for path, name in (
        (boot.kernel, "vmlinuz"),
        (boot.initramfs, "initrd.gz"),
        (config, "syslinux.cfg"),
    ):
        process.run(["mcopy", "-i", scratch, path, f"::/{name}"])
    process.run(["syslinux", "--install", scratch])
    config.unlink()
    scratch.replace(target)
