"""A service that gives its rights away before it does anything: a freeze, an exporter and a store as an ordinary user.

A program for ``test_privileges``: it starts as root, forks both privileged daemons as oslo.privsep does, becomes an ordinary
user for good, and prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import sys
import time
from typing import Any

from oslo_config import cfg
from oslo_privsep import priv_context

from nova_trusted_clone.clone.helpers import Helper, decode, encode
from nova_trusted_clone.clone.source import EXPORTER
from nova_trusted_clone.clone.stores import Store
from nova_trusted_clone.datapath import mounts, processes
from nova_trusted_clone.hypervisor.qemu.source import QemuSource
from nova_trusted_clone.privsep import daemons, guest_memory_pctxt, mounts_pctxt

# Any that is nobody's.
USER = 64999
FREEZE = "ab" * 16
MIB = 1 << 20


def give_rights_away() -> None:
    """Fork the daemons, and become an ordinary user. Group 0 opens libvirt's socket, as the group libvirt does elsewhere."""
    cfg.CONF([], project="nova", default_config_files=[])
    for context in (guest_memory_pctxt, mounts_pctxt):
        context.start(priv_context.Method.FORK)
    os.setgroups([0])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    daemons.use()


def rights(pid: int | str) -> dict[str, Any]:
    """A process's user and capabilities, as the kernel has them."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {
        "user": int(found["Uid"].split()[1]),
        "capabilities": int(found["CapPrm"], 16) | int(found["CapAmb"], 16),
    }


def children() -> dict[int, str]:
    """This process's children and their command lines."""
    found = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        int(pid): pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        for pid in found
    }


def clone_data(uri: str, server: str, place: pathlib.Path) -> dict[str, Any]:
    """Freeze, fetch everything into a store, and look at what QEMU would map."""
    hypervisor, freeze = QemuSource(uri), place / "freeze"
    freeze.mkdir(mode=0o700)
    exporter, store = Helper(EXPORTER, place / "exporter"), Store(place / "stores" / FREEZE)
    with contextlib.ExitStack() as undo:
        undo.callback(exporter.stop)
        exporter.start()
        undo.callback(store.stop)
        store.start()
        where = exporter.call(
            "listen", freeze_id=FREEZE, address="127.0.0.1", port_min=0, port_max=0
        )
        exporter.call("admit", certificate=encode(store.certificate()), clone_id="ab" * 16)
        undo.callback(hypervisor.release, server, freeze)
        drain = pathlib.Path(str(exporter.call("drain")["socket"]))
        frozen = hypervisor.freeze(server, freeze, drain)
        memory = hypervisor.memory_files(frozen)
        assert memory is not None
        exporter.call("memory", memory.descriptors, pid=memory.pid, start_time=memory.start_time)
        rows = [
            {"kind": r.kind, "name": r.name, "size_bytes": r.size_bytes, "source": dict(r.source)}
            for r in frozen.regions
        ]
        regions = exporter.call("frozen", regions=rows)["regions"]
        store.fetch(
            address="127.0.0.1",
            port=int(where["port"]),
            certificate=decode(exporter.call("identity")["certificate"]),
            freeze_id=bytes.fromhex(FREEZE),
            page_key=decode(exporter.call("identity")["page_key"]),
            regions=regions,
            mode="lazy",
            limit_s=60,
        )
        store.add_clone("web")
        while not store.status()["complete"]:
            time.sleep(0.05)
        return {
            "exporter": rights(_pid(place / "exporter")),
            "store": rights(_pid(store.directory)),
            "children": {line: rights(pid) for pid, line in children().items()},
            "drain": exporter.call("status")["drain"],
            "mounted": [str(path) for path in mounts.mounts_below(place)],
            "start_of_memory": _read_as_another(store.mount_path / "ram" / "web" / "pc.ram"),
        }


def _pid(directory: pathlib.Path) -> int:
    found = processes.find(directory)
    assert found is not None
    return found.pid


def _read_as_another(path: pathlib.Path) -> str:
    """The first MiB's digest, as the test reads it: QEMU too is another user than the service."""
    return hashlib.sha256(path.open("rb").read(MIB)).hexdigest()


def main() -> None:
    """Arguments: libvirt's URI, the server's UUID, a directory."""
    uri, server, directory = sys.argv[1:]
    place = pathlib.Path(directory)
    os.chown(place, USER, USER)
    place.chmod(0o711)
    give_rights_away()
    (place / "stores").mkdir(mode=0o700)
    found = clone_data(uri, server, place)
    found["own"] = rights("self")
    found["left"] = [str(path) for path in mounts.mounts_below(place)]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
