"""An swtpm that stands for a host's hardware TPM: made with an EK certificate by a maker's CA,
powered on, rebooted."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Sequence

_OPTIONS = "--platform-manufacturer maker\n--platform-version 1\n--platform-model m1\n"


def make_maker(directory: pathlib.Path, key: pathlib.Path | None = None) -> pathlib.Path:
    """Configure swtpm's local CA; with ``key`` (and ``.pem`` beside it) that CA, else one it
    makes itself."""
    directory.mkdir(exist_ok=True)
    signing = key or directory / "signkey.pem"
    issuer = key.with_suffix(".pem") if key else directory / "issuercert.pem"
    (directory / "localca.conf").write_text(
        f"statedir = {directory}\nsigningkey = {signing}\nissuercert = {issuer}\n"
        f"certserial = {directory}/certserial\n"
    )
    (directory / "localca.options").write_text(_OPTIONS)
    setup = directory / "setup.conf"
    setup.write_text(
        "create_certs_tool = /usr/bin/swtpm_localca\n"
        f"create_certs_tool_config = {directory}/localca.conf\n"
        f"create_certs_tool_options = {directory}/localca.options\n"
    )
    return setup


def manufacture(
    state: pathlib.Path, setup: pathlib.Path, *, ecc: bool = False, more: Sequence[str] = ()
) -> None:
    """Make a TPM with an EK certificate."""
    state.mkdir()
    command = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--config", str(setup)]
    command += ["--pcr-banks", "sha256", "--create-ek-cert", "--lock-nvram", "--vmid", state.name]
    command += [*more, "--ecc"] if ecc else more
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class PoweredTpm:
    """A TPM that is on. ``transport`` names it."""

    def __init__(self, state: pathlib.Path) -> None:
        self._state = state
        self._process: subprocess.Popen[bytes] | None = None
        self.transport = f"swtpm:{state}/data"
        self.reboot()

    def reboot(self) -> None:
        self.off()
        for name in ("data", "ctrl"):
            (self._state / name).unlink(missing_ok=True)
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}"]
        command += ["--server", f"type=unixio,path={self._state}/data"]
        command += ["--ctrl", f"type=unixio,path={self._state}/ctrl"]
        command += ["--flags", "not-need-init,startup-clear"]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not (self._state / "data").exists() or not (self._state / "ctrl").exists():
            assert time.monotonic() < deadline, "swtpm did not start"
            time.sleep(0.005)

    def off(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


@contextlib.contextmanager
def short_directory():
    """A directory whose sockets have short paths."""
    path = pathlib.Path(f"/run/trusted-clone-tpm-{os.getpid()}")
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path)
