"""A service that gives its rights away before it does anything: an exporter and a store as an ordinary user.

A program for ``test_privileges``: it starts as root, forks both privileged daemons as oslo.privsep does, becomes an ordinary
user for good, and writes what came of it as JSON. What it serves is a file; whose memory it has opened is a program that is
named like QEMU and runs as somebody else.
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
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, mappings, opened
from nova_trusted_clone.privsep import daemons, guest_memory_pctxt, mounts_pctxt

# Any that is nobody's.
USER = 64999
FREEZE = "ab" * 16
MIB = 1 << 20


def give_rights_away() -> None:
    """Fork the daemons, and become an ordinary user."""
    cfg.CONF([], project="nova", default_config_files=[])
    for context in (guest_memory_pctxt, mounts_pctxt):
        context.start(priv_context.Method.FORK)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    daemons.use()


def rights(pid: int | str) -> dict[str, Any]:
    """A process's user and capabilities, as the kernel has them."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    held = int(found["CapPrm"], 16) | int(found["CapAmb"], 16)
    return {"user": int(found["Uid"].split()[1]), "capabilities": held}


def children() -> list[int]:
    """This process's children."""
    text = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


def end_of_stack(guest: ProcessId) -> str:
    """The last page of a program's stack, where its own name stands, read through the daemon's files."""
    stack = next(found for found in mappings(guest.pid) if found.path == "[stack]")
    with opened(guest, "mem") as memory:
        return os.pread(memory, 4096, stack.start + stack.size - 4096).decode(errors="replace")


def serve(content: pathlib.Path, place: pathlib.Path) -> dict[str, Any]:
    """Export a file as a clone's memory, fetch it into a store, and look at what QEMU would map."""
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
        exporter.call("capture")
        row = {
            "kind": "ram",
            "name": "pc.ram",
            "size_bytes": content.stat().st_size,
            "source": {"type": "file", "path": str(content)},
        }
        identity = exporter.call("identity")
        store.fetch(
            address="127.0.0.1",
            port=int(where["port"]),
            certificate=decode(identity["certificate"]),
            freeze_id=bytes.fromhex(FREEZE),
            page_key=decode(identity["page_key"]),
            regions=exporter.call("frozen", regions=[row])["regions"],
            mode="lazy",
            limit_s=60,
        )
        store.add_clone("web")
        while not store.status()["complete"]:
            time.sleep(0.05)
        served = store.mount_path / "ram" / "web" / "pc.ram"
        return {
            "exporter": rights(_pid(place / "exporter")),
            "store": rights(_pid(store.directory)),
            "children": [rights(pid) for pid in children()],
            "mounted": [str(path) for path in mounts.mounts_below(place)],
            "served": hashlib.sha256(served.read_bytes()).hexdigest(),
        }


def _pid(directory: pathlib.Path) -> int:
    found = processes.find(directory)
    assert found is not None
    return found.pid


def main() -> None:
    """Arguments: a file of whole MiB, the guest's pid, a directory."""
    content, pid, directory = sys.argv[1:]
    place = pathlib.Path(directory)
    os.chown(place, USER, USER)
    place.chmod(0o711)
    give_rights_away()
    (place / "stores").mkdir(mode=0o700)
    guest = ProcessId.of(int(pid))
    found = {"stack": end_of_stack(guest), **serve(pathlib.Path(content), place)}
    found |= {"own": rights("self"), "left": [str(path) for path in mounts.mounts_below(place)]}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
