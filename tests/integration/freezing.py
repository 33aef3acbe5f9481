"""For the tests of freeze and restore: a freeze of a lab's guest, what must be gone after it, a clone of it."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from labkit import guests
from labkit.guests import Guest, Wish
from labkit.host import Host
from labkit.lab import Lab

from nova_trusted_clone.core.integrity.manifest import Region
from nova_trusted_clone.hypervisor.qemu import connection
from nova_trusted_clone.hypervisor.qemu.monitor import Monitor, capability
from nova_trusted_clone.hypervisor.qemu.process import mappings, of_domain
from nova_trusted_clone.hypervisor.qemu.source import QemuSource
from nova_trusted_clone.hypervisor.qemu.sources import FrozenSources
from nova_trusted_clone.ports import Frozen, Identity, NicIdentity, RestorePlan, VtpmBlobs

# Prints "interface source-address" of every frame that any interface of the namespace sees.
_SNIFFER = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print("ready", flush=True)
while True:
    frame, place = s.recvfrom(2048)
    print(place[0], frame[6:12].hex(":"), flush=True)
"""


@dataclasses.dataclass
class Freeze:
    """A freeze in ``directory``, and its sources in this process."""

    guest: Guest
    directory: pathlib.Path
    source: QemuSource
    sources: FrozenSources

    @classmethod
    def begin(cls, guest: Guest, name: str) -> Freeze:
        """Everything before the freeze itself."""
        directory = guest.host.state_path / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        sources = FrozenSources(directory / "capture.sock", directory)
        sources.start()
        return cls(guest, directory, QemuSource(guest.host.uri), sources)

    def freeze(self) -> Frozen:
        """Freeze, and open the sources."""
        frozen = self.source.freeze(
            self.guest.uuid, self.directory, self.directory / "capture.sock"
        )
        regions = [
            (Region(number, r.kind, r.name, r.size_bytes), r.source)
            for number, r in enumerate(frozen.regions, 1)
        ]
        self.sources.open(regions)
        return frozen

    def read_all(self, into: pathlib.Path) -> dict[tuple[str, str], pathlib.Path]:
        """Every region, each in a file."""
        found = {}
        for number, source in self.sources.sources.items():
            region = source.region
            path = into / f"{region.kind}-{number}"
            with path.open("wb") as file:
                for index in range(region.segments):
                    file.write(source.read(index))
            found[region.kind, region.name] = path
        return found

    def await_taken(self) -> None:
        """Until all of the memory is taken, or will not be."""
        await_true(lambda: bool(self.sources.status()["ended"]))

    def release(self) -> None:
        """Take it off."""
        self.sources.close()
        self.source.release(self.guest.uuid, self.directory)


@contextlib.contextmanager
def running(lab: Lab, **wished: object) -> Iterator[Guest]:
    """A guest on the source host for a block of code; keywords are ``Wish``'s."""
    guest = guests.start(lab.source, Wish(**wished))  # type: ignore[arg-type]
    try:
        guest.wait_ready()
        yield guest
    finally:
        guest.destroy()


def await_true(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def traces(guest: Guest, directory: pathlib.Path) -> list[str]:
    """What of a freeze is still on a guest or in its directory."""
    with connection.connected(guest.host.uri) as libvirtd:
        domain = connection.find(libvirtd, guest.uuid)
        monitor = Monitor(domain)
        found = [f"job {job['id']}" for job in monitor.execute("query-jobs")]
        found += [f"export {export['id']}" for export in monitor.execute("query-block-exports")]
        nodes = [str(n.get("node-name")) for n in monitor.execute("query-named-block-nodes")]
        found += [f"node {name}" for name in nodes if not name.startswith("libvirt-")]
        sets = [int(s["fdset-id"]) for s in monitor.execute("query-fdsets")]
        found += [f"descriptors {number}" for number in sets if number >= 746300]
        if capability(monitor, "background-snapshot"):
            found.append("capability")
        if any(o["name"] == "ntc-freeze" for o in monitor.execute("qom-list", path="/objects")):
            found.append("mark")
        if not monitor.execute("query-status")["running"] or domain.state()[0] != 1:
            found.append("not running")
    if any("uw" in mapping.flags for mapping in mappings(of_domain(guest.uuid).pid)):
        found.append("write protection")
    return found + [f"file {path.name}" for path in directory.iterdir()]


def plan_of(
    frozen: Frozen,
    files: dict[tuple[str, str], pathlib.Path],
    host: Host,
    identity: Identity,
    vtpm: VtpmBlobs | None,
) -> RestorePlan:
    """A plan whose store is a directory of plain files."""
    directory = host.state_path / identity.name
    directory.mkdir()
    store = directory / "store"
    store.mkdir()
    shutil.copyfile(files["ram", "pc.ram"], store / "pc.ram")
    ram = [(r.name, r.size_bytes) for r in frozen.regions if r.kind == "ram"]
    return RestorePlan(
        identity=identity,
        directory=directory,
        definition=files["domain", "domain"].read_text(),
        device_state=files["device", "device"],
        memory={"pc.ram": store / "pc.ram"},
        small_blocks={name: files["ram", name] for name, _ in ram if name != "pc.ram"},
        ram_block_order=tuple(ram),
        backings={name: path for (kind, name), path in files.items() if kind == "disk"},
        vtpm=vtpm,
    )


def someone_else(name: str, number: int) -> Identity:
    """An identity for a clone with one network card."""
    return Identity(
        name,
        f"cccccccc-0000-4000-8000-{number:012x}",
        (NicIdentity(f"52:54:00:cc:00:{number:02x}", "br0"),),
    )


class Sniffer:
    """Hears every frame on every interface of a host, from ``with`` on."""

    def __init__(self, host: Host) -> None:
        command = [*host.sandbox.enter(), sys.executable, "-c", _SNIFFER]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> set[tuple[str, str]]:
        """(interface, source address) of all frames until now."""
        self._process.terminate()
        output, _ = self._process.communicate(timeout=10)
        return {
            (words[0], words[1]) for words in map(str.split, output.splitlines()) if len(words) == 2
        }
