"""One host of the lab: namespaces, a TPM, a bridge for guests, libvirtd."""

from __future__ import annotations

import dataclasses
import grp
import pathlib

from labkit import boot, hardware_tpm, libvirtd, process
from labkit.errors import LabError
from labkit.node import Node
from labkit.process import Process
from labkit.swtpm_config import LocalAuthority

BRIDGE = "br0"
LINK = "lab0"


@dataclasses.dataclass(frozen=True)
class Host(Node):
    """A host by its name and the address at which the other host reaches it.

    :ivar migrates: whether its libvirt takes live migrations from the other hosts
    """

    migrates: bool = False

    @property
    def installed(self) -> bool:
        """Whether its programs have users of their own, as on an installed host; otherwise all is root's."""
        return False

    @property
    def shared(self) -> pathlib.Path:
        """A mount made below it outside (a FUSE file system) shows inside too; elsewhere it would not."""
        return self.run_dir / "shared"

    @property
    def memory_backing_dir(self) -> pathlib.Path:
        """``memory_backing_dir`` of the host's qemu.conf."""
        return self.base / "memory"

    @property
    def identity(self) -> pathlib.Path:
        """What enrolment installs: the AK's certificate and the host's vTPM CA."""
        return self.base / "identity"

    @property
    def config_file(self) -> pathlib.Path:
        """The configuration of the host's agent."""
        return self.base / "nova-trusted-clone.conf"

    @property
    def state_path(self) -> pathlib.Path:
        """Where the host's agent keeps clones and freezes in progress: on disk, but with a path short enough for sockets."""
        return self.run_dir / "state"

    @property
    def uri(self) -> str:
        """The libvirt connection, from inside and outside."""
        return f"qemu:///system?socket={self.run_dir}/libvirt-sock"

    @property
    def tpm_socket(self) -> pathlib.Path:
        """Commands to the host's TPM; control is at the same path with .ctrl."""
        return self.run_dir / "tpm.sock"

    @property
    def tpm(self) -> str:
        """The host's TPM as the product's ``tpm`` option names it."""
        return f"swtpm:{self.tpm_socket}"

    @property
    def event_log(self) -> pathlib.Path:
        """The measured-boot log, as firmware would leave it."""
        return self.base / "binary_bios_measurements"

    def up(self, vendor_config: pathlib.Path) -> None:
        """Start everything of the host; what was started is left to ``down`` when a step fails."""
        # Users of their own go through, and list nothing.
        mode = 0o711 if self.installed else 0o700
        self.base.mkdir(mode=mode, parents=True)
        self.run_dir.mkdir(mode=mode, parents=True)
        _share(self.base / "shared", self.shared)
        _share(self.base / "state", self.state_path)
        libvirtd.configure(
            self.base,
            self.run_dir,
            self.memory_backing_dir,
            self.address if self.migrates else None,
            installed=self.installed,
        )
        self._own_vtpm_authority()
        self._furnish()
        self.sandbox.create()
        self._cover()
        hardware_tpm.manufacture(self.base / "tpm", vendor_config, self.name)
        self.reboot()
        self.run(["ip", "link", "add", BRIDGE, "type", "bridge"])
        self.run(["ip", "link", "set", BRIDGE, "up"])
        libvirtd.start(self.sandbox, self.uri, self.migrates)

    def _furnish(self) -> None:
        """Put into its directory what its namespaces need besides."""

    def _cover(self) -> None:
        """Mount over what its programs shall not see, once its namespaces are there."""

    def reboot(self, firmware: str = boot.FIRMWARE) -> None:
        """Do to the TPM what a reboot of the host does: start it anew and measure a boot into it.

        :param firmware: a text of another firmware gives PCRs that no policy knows
        """
        running = Process.load(self.base / "tpm" / "swtpm.json")
        if running is not None:
            running.end()
        group = grp.getgrnam("tss").gr_gid if self.installed else None
        hardware_tpm.power_on(self.sandbox, self.base / "tpm", self.tpm_socket, group)
        boot.measure(self.tpm, self.event_log, self.name, firmware)

    def _own_vtpm_authority(self) -> None:
        """Until the host is enrolled its guests' vTPMs are certified by a CA that swtpm makes for itself."""
        state = pathlib.Path("/var/lib/swtpm-localca")
        authority = LocalAuthority(state / "signkey.pem", state / "issuercert.pem", state)
        authority.write(self.base, platform=self.name, visible_at=pathlib.Path("/etc"))

    def configure_swtpm_localca(self, key: pathlib.Path, certificate: pathlib.Path) -> None:
        """Let the host's vTPM CA certify the vTPMs that libvirt makes for guests from now on."""
        for path in (key, certificate):
            if not path.is_file():
                raise LabError(f"{path} is missing; enrol {self.name} first")
        state = pathlib.Path("/var/lib/swtpm-localca")
        LocalAuthority(key, certificate, state).write(
            self.base, platform=self.name, visible_at=pathlib.Path("/etc")
        )

    def connect_to(self, other: Host) -> None:
        """Lay a cable between two hosts and give each end its address (a /24)."""
        peer = other.sandbox.holder.pid
        pair = ["ip", "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", str(peer)]
        self.run(pair)
        for host in (self, other):
            host.run(["ip", "address", "add", f"{host.address}/24", "dev", LINK])
            host.run(["ip", "link", "set", LINK, "up"])

    def set_link(self, up: bool) -> None:
        """Plug the cable in or pull it."""
        self.run(["ip", "link", "set", LINK, "up" if up else "down"])


def _share(directory: pathlib.Path, target: pathlib.Path) -> None:
    """Bind ``directory`` at ``target``, shared outside and a slave inside: mounts made there outside appear inside."""
    directory.mkdir(mode=0o700)
    target.mkdir(mode=0o700)
    process.run(["mount", "--bind", directory, target])
    process.run(["mount", "--make-shared", target])
