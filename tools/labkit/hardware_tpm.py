"""A software TPM in the place of a host's hardware TPM, with an EK certificate of the lab's own "TPM vendor".

It proves nothing about hardware; it lets every step run as it does with a TPM of a real maker: an EK certificate that chains
to a vendor's root, PCRs that were extended by a measured boot, and counters that a restart moves on.
"""

from __future__ import annotations

import os
import pathlib

from labkit import process, swtpm_config
from labkit.errors import LabError
from labkit.process import Process
from labkit.sandbox import Sandbox

START_LIMIT_S = 10.0


def make_vendor(directory: pathlib.Path) -> pathlib.Path:
    """Configure the vendor's CA in ``directory``; return swtpm_setup's configuration. The keys come with the first TPM."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = swtpm_config.LocalAuthority(
        key=directory / "signkey.pem", certificate=directory / "issuercert.pem", state=directory
    )
    return authority.write(directory, platform="lab-tpm-vendor")


def vendor_config(directory: pathlib.Path) -> pathlib.Path:
    """swtpm_setup's configuration, as ``make_vendor`` made it."""
    return directory / "swtpm_setup.conf"


def vendor_certificates(directory: pathlib.Path) -> bytes:
    """The vendor's root and the CA below it that certifies endorsement keys, PEM: a TPM carries its own certificate alone."""
    names = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
    return b"".join((directory / name).read_bytes() for name in names)


def manufacture(state: pathlib.Path, vendor_config: pathlib.Path, name: str) -> None:
    """Make a TPM 2.0 with one PCR bank (SHA-256) and EK and platform certificates, as a factory does."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    command: list[str | os.PathLike[str]] = [
        "swtpm_setup",
        "--tpm2",
        "--tpmstate",
        state,
        "--config",
        vendor_config,
    ]
    command += ["--pcr-banks", "sha256", "--create-ek-cert", "--create-platform-cert"]
    command += ["--lock-nvram", "--vmid", name, "--overwrite", "--logfile", state / "setup.log"]
    process.run(command)


def _share_lock(path: pathlib.Path, group: int) -> None:
    """The file by which users of a TPM without a resource manager take turns is the group's too."""
    path.touch()
    os.chown(path, 0, group)
    path.chmod(0o660)


def power_on(
    sandbox: Sandbox, state: pathlib.Path, socket: pathlib.Path, group: int | None = None
) -> Process:
    """Start the TPM at ``socket`` (commands) and ``socket``.ctrl (control) after a TPM2_Startup(CLEAR).

    The control socket's name is the one that libtss2's swtpm transport expects.

    :param group: whose members may use it, as a device's; None: root alone
    """
    control = socket.with_name(socket.name + ".ctrl")
    command = [*sandbox.enter(), "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"]
    shared = "" if group is None else f",mode=0660,gid={group}"
    command += ["--server", f"type=unixio,path={socket}{shared}"]
    command += ["--ctrl", f"type=unixio,path={control}{shared}"]
    command += [
        "--flags",
        "not-need-init,startup-clear",
        "--log",
        f"file={state / 'swtpm.log'},level=1",
    ]
    for path in (socket, control):
        path.unlink(missing_ok=True)
    if group is not None:
        _share_lock(socket.with_name(socket.name + ".lock"), group)
    running = process.start(command, state / "swtpm.out")
    running.save(state / "swtpm.json")
    ready = process.wait_until(
        lambda: (socket.exists() and control.exists()) or not running.alive, START_LIMIT_S
    )
    if not ready or not running.alive:
        running.end()
        raise LabError(
            f"the TPM of {sandbox.hostname} did not start: {(state / 'swtpm.out').read_text()[-500:]}"
        )
    return running
