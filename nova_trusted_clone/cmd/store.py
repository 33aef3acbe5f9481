"""nova-trusted-clone-store: fetches, verifies, keeps and serves one freeze for the clones of this host.

Started by the destination's service in a session of its own, so that it outlives it. It is told what to do over the control
socket in its directory; its log goes to ``store.log`` there.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import logging
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from nova_trusted_clone.core.errors import MalformedInput
from nova_trusted_clone.core.integrity.manifest import RegionTable
from nova_trusted_clone.datapath import control, fuse
from nova_trusted_clone.datapath.control import BASE64, HEX, LIST, NUMBER, SECONDS, TEXT, optional
from nova_trusted_clone.datapath.store import Store

LOG = logging.getLogger(__name__)
CONTROL_SOCKET = "control.sock"
STATE_FILE = "state.json"
STATE_EVERY_S = 1.0
MAX_WAIT_S = 50.0
_REGION_FIELDS = ("id", "kind", "name", "size_bytes")


def region_table(rows: list[Any]) -> RegionTable:
    """Read regions given as objects or as rows.

    :raises MalformedInput: names the region and field
    """
    plain = []
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            if set(row) != set(_REGION_FIELDS):
                raise MalformedInput(f"regions[{number}]: expected {', '.join(_REGION_FIELDS)}")
            row = [row[name] for name in _REGION_FIELDS]
        plain.append(row)
    return RegionTable.from_rows(plain)


class StoreProcess:
    """The control operations, and the process's end."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._store = Store(directory)
        self._mount: fuse.Mount | None = None
        self._lock = threading.Lock()
        self.ended = threading.Event()
        self._started_at = time.time()

    def operations(self) -> dict[str, control.Operation]:
        """What the control channel offers."""
        operation = control.Operation
        regions = {"regions": LIST}
        return {
            "identity": operation(self._identity),
            "connect": operation(
                self._store.connect,
                {"host": TEXT, "port": NUMBER, "peer_certificate": BASE64, "freeze_id": HEX},
            ),
            "early": operation(self._early, regions),
            "fetch": operation(
                self._fetch,
                {
                    "page_key": BASE64,
                    "freeze_id": HEX,
                    **regions,
                    "mode": optional(TEXT),
                    "network_limit_s": optional(SECONDS),
                },
            ),
            # Brings the connection where another process mounted it already.
            "mount": operation(self._mount_at, {"path": TEXT}, files=1, files_optional=True),
            "add_clone": operation(self._add_clone, {"name": TEXT}),
            "status": operation(self.status),
            "wait_complete": operation(self._wait_complete, {"limit_s": optional(SECONDS)}),
            "root": operation(self._root),
            "read_region": operation(self._read_region, {"region": NUMBER}),
            "abort": operation(self._store.abort, {"reason": TEXT}),
            "stop": operation(self._stop),
        }

    def _identity(self) -> Mapping[str, Any]:
        return {"certificate": _text(self._store.certificate_der)}

    def _early(self, regions: list[Any]) -> None:
        self._store.begin_early(region_table(regions))

    def _fetch(self, regions: list[Any], **arguments: Any) -> None:
        self._store.fetch(regions=region_table(regions), **arguments)

    def _mount_at(self, path: str, files: tuple[int, ...] = ()) -> None:
        with self._lock:
            if self._mount is not None:
                for descriptor in files:
                    os.close(descriptor)
                if self._mount.path == pathlib.Path(path):
                    return
                raise fuse.MountError(f"path: {self._mount.path} is mounted already")
            mount = fuse.Mount(self._store, pathlib.Path(path), *files)
            mount.start()
            self._mount = mount
        self.write_state()

    def _add_clone(self, name: str) -> None:
        if not name or "/" in name or name in (".", "..") or len(name.encode()) > 255:
            raise MalformedInput("name: expected a file name of 1 to 255 bytes")
        with self._lock:
            if self._mount is None:
                raise fuse.MountError("nothing is mounted yet: ask for mount first")
            self._mount.add_clone(name)

    def status(self) -> dict[str, Any]:
        """The store's status; bytes as base64."""
        found = self._store.status()
        found["root"] = _text(found["root"]) if found["root"] is not None else None
        found["mount"] = str(self._mount.path) if self._mount is not None else None
        return found

    def _wait_complete(self, limit_s: float = MAX_WAIT_S) -> Mapping[str, Any]:
        deadline = time.monotonic() + min(limit_s, MAX_WAIT_S)
        while time.monotonic() < deadline:
            status = self.status()
            if status["complete"] or status["reason"]:
                return status
            time.sleep(0.02)
        return self.status()

    def _root(self) -> Mapping[str, Any]:
        status = self.status()
        return {"root": status["root"], "counts": status["counts"]}

    def _read_region(self, region: int) -> Mapping[str, Any]:
        if region not in self._store.table:
            raise MalformedInput(f"region: there is no region {region}")
        path = self._store.regions.path_if_complete(region) if self._store.serves else None
        return {"path": str(path) if path is not None else None}

    def _stop(self) -> None:
        self.ended.set()

    def write_state(self) -> None:
        """Write where the process stands, for who finds its directory."""
        state = {"pid": os.getpid(), "started_at": self._started_at, **self.status()}
        temporary = self._directory / f".{STATE_FILE}"
        try:
            temporary.write_text(json.dumps(state))
            temporary.replace(self._directory / STATE_FILE)
        except OSError as error:
            # A full disk: the control channel tells the same, and verified pages are still served.
            LOG.warning("%s cannot be written: %s", STATE_FILE, error)

    def close(self) -> None:
        """Unmount, end the lines, remove the pages. Each part is tried even if another fails."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._store.close)
            if self._mount is not None:
                stack.callback(self._mount.stop)
            # First, so that no reader holds the mount while it waits for a page.
            stack.callback(self._store.abort, "the store was stopped")


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _log_to(path: pathlib.Path) -> None:
    logging.basicConfig(
        filename=path,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(threadName)s: %(message)s",
    )


def main() -> int:
    """Run until ``stop`` or SIGTERM."""
    parser = argparse.ArgumentParser(prog="nova-trusted-clone-store", description=__doc__)
    parser.add_argument(
        "--directory", type=pathlib.Path, required=True, help="private to this store"
    )
    directory = parser.parse_args().directory
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.umask(0o077)
    _log_to(directory / "store.log")
    # Lines and mount share the interpreter: a guest that waits for a page should not wait 5 ms for a turn.
    sys.setswitchinterval(0.0005)
    process = StoreProcess(directory)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.ended.set())
    server = control.ControlServer(directory / CONTROL_SOCKET, process.operations())
    with contextlib.ExitStack() as stack:
        stack.callback(process.close)
        server.start()
        stack.callback(server.close)
        while not process.ended.wait(STATE_EVERY_S):
            process.write_state()
    LOG.info("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
