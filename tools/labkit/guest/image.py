"""The guest's boot image: Debian's own kernel and an initramfs of one program and the modules that it needs.

A guest that shall ask for addresses by DHCP has busybox in it too. The kernel package is downloaded and unpacked, never
installed. The result is cached by what went into it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import gzip
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from labkit import process
from labkit.errors import LabError

SOURCES = pathlib.Path(__file__).resolve().parent
# The kernel for virtual machines: small, with the TPM and packet sockets built in.
META_PACKAGE = "linux-image-cloud-amd64"
# For QEMU's devices and for Xen's; each is at home on one of them.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "xen_blkfront", "xen_netfront")
# A switch in user space hands on what the guest's driver sent: a checksum left to hardware would be left to nobody.
PARAMETERS = {"virtio_net": "csum=0 gso=0"}
BUSYBOX = pathlib.Path("/bin/busybox")
COMPILE = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread")


@dataclasses.dataclass(frozen=True)
class BootImage:
    """What QEMU boots directly."""

    kernel: pathlib.Path
    initramfs: pathlib.Path


def build(cache: pathlib.Path, dhcp: bool = False) -> BootImage:
    """Make the boot image in ``cache``, or take it from there when nothing it is made of has changed.

    :param dhcp: with a client for it
    :raises LabError: when the kernel package cannot be had or the program does not compile
    """
    cache.mkdir(parents=True, exist_ok=True)
    kind = "dhcp-initramfs" if dhcp else "initramfs"
    with (cache / "guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unpacked = _kernel(cache)
        initramfs = cache / f"{kind}-{_sources_hash(unpacked.name)}.gz"
        if not initramfs.exists():
            for outdated in cache.glob(f"{kind}-*.gz"):
                outdated.unlink()
            _make_initramfs(unpacked, initramfs, dhcp)
        kernel = next(unpacked.glob("boot/vmlinuz-*"))
        return BootImage(kernel, initramfs)


def _sources_hash(kernel_name: str) -> str:
    """Of the program's sources, of this file, and of the kernel's name."""
    digest = hashlib.sha256(kernel_name.encode())
    for path in sorted([*SOURCES.glob("*.[ch]"), SOURCES / "dhcp", pathlib.Path(__file__)]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _kernel(cache: pathlib.Path) -> pathlib.Path:
    """The unpacked kernel package. An unpacked one is kept: the lab does not chase kernel updates."""
    for found in sorted(cache.glob("linux-image-*")):
        if any(found.glob("boot/vmlinuz-*")):
            return found
    package = _kernel_package()
    with tempfile.TemporaryDirectory(dir=cache) as name:
        scratch = pathlib.Path(name)
        process.run(["apt-get", "download", package], cwd=scratch, limit_s=600)
        archive = next(scratch.glob("*.deb"))
        process.run(["dpkg-deb", "--extract", archive, scratch / "unpacked"])
        version = next((scratch / "unpacked/lib/modules").iterdir()).name
        process.run(["depmod", "--basedir", scratch / "unpacked", version])
        (scratch / "unpacked").rename(cache / package)
    return cache / package


def _kernel_package() -> str:
    """The package that the meta package depends on today."""
    for attempt in (1, 2):
        shown = process.run(["apt-cache", "depends", META_PACKAGE]) if _is_known() else ""
        for line in shown.splitlines():
            kind, _, name = line.strip().partition(": ")
            if kind == "Depends" and name.startswith("linux-image-"):
                return name
        if attempt == 1:
            process.run(["apt-get", "update"], limit_s=600)
    raise LabError(
        f"apt knows no kernel for {META_PACKAGE}; the lab takes its guest's kernel from Debian 12"
    )


def _is_known() -> bool:
    return bool(process.run(["apt-cache", "pkgnames", META_PACKAGE]).strip())


def _module_files(unpacked: pathlib.Path) -> list[pathlib.Path]:
    """The modules and what they need, each after what it needs."""
    version = next((unpacked / "lib/modules").iterdir()).name
    files: dict[pathlib.Path, None] = {}
    for module in MODULES:
        command: list[str | os.PathLike[str]] = [
            "modprobe",
            "--dirname",
            unpacked,
            "--set-version",
            version,
            "--show-depends",
            module,
        ]
        for line in process.run(command).splitlines():
            words = line.split()
            if words[0] == "insmod":
                files.setdefault(pathlib.Path(words[1]))
    return list(files)


def _module_line(path: pathlib.Path) -> str:
    """As the guest's program reads it: the file and its parameters."""
    parameters = PARAMETERS.get(path.name.removesuffix(".ko"))
    return f"{path.name} {parameters}\n" if parameters else f"{path.name}\n"


def _make_initramfs(unpacked: pathlib.Path, target: pathlib.Path, dhcp: bool) -> None:
    if dhcp and not BUSYBOX.exists():
        raise LabError(f"{BUSYBOX} is missing; it comes with Debian's package busybox-static")
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        tree = pathlib.Path(name)
        for directory in ("dev", "proc", "sys", "modules"):
            (tree / directory).mkdir()
        process.run([*COMPILE, "-o", tree / "init", *sorted(SOURCES.glob("*.c"))])
        if dhcp:
            shutil.copy(BUSYBOX, tree / "busybox")
            shutil.copy(SOURCES / "dhcp", tree / "dhcp")
            (tree / "dhcp").chmod(0o755)
        modules = _module_files(unpacked)
        for path in modules:
            shutil.copyfile(path, tree / "modules" / path.name)
        (tree / "modules/list").write_text("".join(map(_module_line, modules)))
        # A directory must come before what is in it.
        entries = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))) + "\n"
        packed = subprocess.run(
            ["cpio", "--create", "--format=newc", "--quiet"],
            input=entries.encode(),
            cwd=tree,
            capture_output=True,
            check=True,
        )
    scratch = target.with_suffix(".new")
    scratch.write_bytes(gzip.compress(packed.stdout, 6))
    scratch.replace(target)
