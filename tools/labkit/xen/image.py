"""The disk of a Xen host, its kernel and its hypervisor: Debian's packages from where this machine's apt takes them.

Made once, minutes of work, and cached by what it was made of. Each host starts from a layer of its own over it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

from labkit import process
from labkit.errors import LabError
from labkit.node import unmount_below
from labkit.paths import CHECKOUT

SOURCES = pathlib.Path(__file__).resolve().parent
XEN_VERSION = "4.17"
PACKAGES = (
    # Xen, its tools, libvirt with its driver
    f"xen-hypervisor-{XEN_VERSION}-amd64",
    f"xen-utils-{XEN_VERSION}",
    *("xen-utils-common", "xenstore-utils", "qemu-system-xen", "qemu-utils", "seabios"),
    *("libvirt-daemon", "libvirt-daemon-driver-xen", "libvirt-clients"),
    # the machine
    *(
        "linux-image-amd64",
        "udev",
        "kmod",
        "busybox-static",
        "iproute2",
        "iputils-ping",
        "procps",
        "psmisc",
    ),
    *("openssh-server", "strace"),
    # what the project needs besides its venv
    *("python3", "swtpm", "swtpm-tools", "gnutls-bin", "fuse3", "libfuse3-3", "libjson-c5"),
    *("libtss2-esys-3.0.2-0", "libtss2-fapi1", "libtss2-rc0", "libtss2-tctildr0", "libtss2-mu0"),
    *("libtss2-tcti-device0", "libtss2-tcti-swtpm0"),
)
OMITTED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
REQUIREMENTS = ("requirements.txt", "host-requirements.txt")
# nova-compute runs there, too.
NOVA = "nova"
LIBVIRT_DRIVERS = ("libxl", "network", "secret")
VENV = pathlib.Path("opt/venv")
DISK_SIZE = "8G"
# Of Debian's kernel, in the order in which they need each other; the initramfs has them and busybox.
DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
# The emulated processor has no VME, and Xen hides SYSENTER from dom0: these of libvirt's models would fit none.
MODELS_WITHOUT = ("486", "pentium", "qemu64")
INITRAMFS = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /lib/modules/*.ko; do insmod $module; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries+1)); done
mount -t ext4 -o noatime /dev/vda /new || exec sh
mount --move /dev /new/dev
umount /sys
umount /proc
exec switch_root /new /sbin/dom0
"""


@dataclasses.dataclass(frozen=True)
class HostImage:
    """What QEMU boots as a Xen host.

    :ivar key: the private key for its shell
    """

    directory: pathlib.Path

    @property
    def xen(self) -> pathlib.Path:
        """The hypervisor, as an ELF file that QEMU loads directly."""
        return self.directory / "xen"

    @property
    def kernel(self) -> pathlib.Path:
        """dom0's kernel."""
        return self.directory / "vmlinuz"

    @property
    def initramfs(self) -> pathlib.Path:
        """What mounts the disk."""
        return self.directory / "initramfs"

    @property
    def disk(self) -> pathlib.Path:
        """An ext4 file system, raw; nobody writes to it."""
        return self.directory / "disk.img"

    @property
    def key(self) -> pathlib.Path:
        """The private key for its shell."""
        return self.directory / "key"


def build(cache: pathlib.Path, report: Callable[[str], None]) -> HostImage:
    """Make the image in ``cache``, or take it from there when nothing that it is made of has changed.

    :raises LabError: when a package cannot be had
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "xen.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        image = HostImage(cache / f"xen-{_inputs_hash()}")
        if image.disk.exists():
            return image
        for outdated in cache.glob("xen-????????????????*"):
            # One whose making was killed has proc and sys of this machine mounted.
            unmount_below(outdated)
            shutil.rmtree(outdated)
        scratch = image.directory.with_name(image.directory.name + ".new")
        scratch.mkdir()
        _make(HostImage(scratch), report)
        scratch.rename(image.directory)
    return image


def _inputs_hash() -> str:
    digest = hashlib.sha256(str(CHECKOUT).encode())
    files = [SOURCES / "dom0", pathlib.Path(__file__), CHECKOUT / "constraints.txt"]
    for path in (*files, *(CHECKOUT / name for name in REQUIREMENTS)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _make(image: HostImage, report: Callable[[str], None]) -> None:
    root = image.directory / "root"
    report("the Xen hosts' disk: Debian's packages (once, some minutes)")
    _install(root)
    report("the Xen hosts' disk: the venv")
    _make_venv(root)
    _configure(image, root)
    _take_boot_files(image, root)
    command: list[str | os.PathLike[str]] = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal"]
    process.run([*command, "-d", root, image.disk, DISK_SIZE], limit_s=1800)
    shutil.rmtree(root)


def _apt_sources() -> str:
    """Where this machine takes Debian 12 from, one line each."""
    form = "$(LABEL)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    told = process.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    lines = [line.partition("|")[2] for line in told.splitlines() if line.startswith("Debian")]
    if not lines:
        raise LabError(
            "apt of this machine knows no Debian: the Xen hosts are made of its packages"
        )
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _install(root: pathlib.Path) -> None:
    command: list[str | os.PathLike[str]] = ["mmdebstrap", "--mode=root", "--variant=minbase"]
    command += [f"--include={','.join(PACKAGES)}", "--dpkgopt=force-unsafe-io"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in OMITTED]
    # The host boots with an initramfs of its own.
    turn_off = 'mkdir -p "$1/etc/initramfs-tools"; echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"'
    command += ["--dpkgopt=force-confold", f"--essential-hook={turn_off}"]
    process.run([*command, "bookworm", root, "-"], script=_apt_sources(), limit_s=3600)


def _make_venv(root: pathlib.Path) -> None:
    """The same versions as in the checkout's own venv; the hosts are the same Debian, so what was built here fits there."""
    uv, venv = pathlib.Path(sys.executable).with_name("uv"), root / VENV
    process.run([uv, "venv", "-q", "--relocatable", "--python", "/usr/bin/python3", venv])
    command: list[str | os.PathLike[str]] = [
        uv,
        "pip",
        "install",
        "-q",
        # An emulated processor compiles for minutes what is there already.
        "--compile-bytecode",
        "--python",
        venv / "bin/python",
    ]
    command += ["-c", CHECKOUT / "constraints.txt"]
    for name in (*REQUIREMENTS, "test-requirements.txt"):
        command += ["-r", CHECKOUT / name]
    process.run([*command, NOVA], limit_s=1800)
    python = "import pathlib, sysconfig; print(sysconfig.get_path('purelib'))"
    packages = pathlib.Path(process.run([venv / "bin/python", "-c", python]).strip())
    # On an emulated dom0 a change of threads costs milliseconds: whoever waits for Python's lock asks for it every five.
    quiet = "import sys; sys.setswitchinterval(0.1)\n"
    (packages / "project.pth").write_text(f"/project\n/project/tools\n{quiet}")


def _configure(image: HostImage, root: pathlib.Path) -> None:
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", image.key])
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(image.key.with_suffix(".pub"), ssh / "authorized_keys")
    (root / "etc/ssh/sshd_config.d/lab.conf").write_text("UseDNS no\nUsePAM no\nMaxSessions 64\n")
    shutil.copyfile(SOURCES / "dom0", root / "sbin/dom0")
    (root / "sbin/dom0").chmod(0o755)
    for name in ("project", "lab"):
        (root / name).mkdir()
    for model in MODELS_WITHOUT:
        path = root / f"usr/share/libvirt/cpu_map/x86_{model}.xml"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "'vme'" not in line))
    # Of libvirt's drivers Xen's and what Nova asks besides: that of QEMU wants users and directories that are not here.
    drivers = root / "usr/lib/x86_64-linux-gnu/libvirt/connection-driver"
    for driver in drivers.glob("libvirt_driver_*.so"):
        if driver.name not in {f"libvirt_driver_{name}.so" for name in LIBVIRT_DRIVERS}:
            driver.unlink()


def _take_boot_files(image: HostImage, root: pathlib.Path) -> None:
    packed = next(root.glob(f"boot/xen-{XEN_VERSION}*.gz"))
    image.xen.write_bytes(gzip.decompress(packed.read_bytes()))
    kernel = next(root.glob("boot/vmlinuz-*"))
    shutil.copyfile(kernel, image.kernel)
    version = kernel.name.removeprefix("vmlinuz-")
    process.run(["depmod", "--basedir", root, version])
    with _scratch(image.directory / "initramfs.tree") as tree:
        for name in ("bin", "proc", "sys", "dev", "new", "lib/modules"):
            (tree / name).mkdir(parents=True)
        shutil.copy(root / "bin/busybox", tree / "bin/busybox")
        for applet in ("sh", "mount", "umount", "switch_root", "insmod", "sleep"):
            (tree / "bin" / applet).symlink_to("busybox")
        for number, module in enumerate(_modules(root, version)):
            shutil.copyfile(module, tree / f"lib/modules/{number:03}-{module.name}")
        (tree / "init").write_text(INITRAMFS)
        (tree / "init").chmod(0o755)
        image.initramfs.write_bytes(gzip.compress(_pack(tree), 1))


def _modules(root: pathlib.Path, version: str) -> list[pathlib.Path]:
    """The modules' files, each after what it needs."""
    found: dict[pathlib.Path, None] = {}
    for module in DISK_MODULES:
        command = ["modprobe", "--dirname", str(root), "--set-version", version, "--show-depends"]
        for line in process.run([*command, module]).splitlines():
            words = line.split()
            if words[0] == "insmod":
                found.setdefault(pathlib.Path(words[1]))
    return list(found)


def _pack(tree: pathlib.Path) -> bytes:
    entries = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))) + "\n"
    command = ["cpio", "--create", "--format=newc", "--quiet"]
    done = subprocess.run(
        command, input=entries.encode(), cwd=tree, capture_output=True, check=True
    )
    return done.stdout


@contextlib.contextmanager
def _scratch(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
