"""Full disks, silent strangers, readers that map: each has its bound and its end."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from nova_trusted_clone.datapath import mounts
from nova_trusted_clone.datapath.exporter import ExporterSettings
from nova_trusted_clone.datapath.filters import fault
from tests.integration import store_lab as lab

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def small_disk(path: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """A directory on a file system of this size."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_at_the_store_ends_the_transfer_with_the_reason(
    tmp_path: pathlib.Path,
) -> None:
    with (
        small_disk(tmp_path / "small", "20m") as small,
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        lab.storing(small / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        status = store.wait()
        assert status["code"] == "trusted-clone.store.disk"
        assert "No space left" in status["reason"]
        assert not exporter.status()["failed"]


def test_a_full_disk_at_the_exporter_costs_only_its_cache_of_manifests(
    tmp_path: pathlib.Path,
) -> None:
    with (
        small_disk(tmp_path / "small", "64k") as small,
        lab.exporting(small, lab.sources()) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        assert store.wait()["complete"]
        assert exporter.root() is not None


def test_silent_strangers_do_not_keep_a_store_out(tmp_path: pathlib.Path) -> None:
    patient = ExporterSettings(handshake_limit_s=3600)
    with (
        lab.exporting(tmp_path, lab.sources(), settings=patient) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
        contextlib.ExitStack() as strangers,
    ):
        for _ in range(40):
            strangers.enter_context(socket.create_connection(("127.0.0.1", port)))
        store.connect(exporter, port)
        store.fetch(exporter)
        # Were they not cut off, each would hold its place for an hour.
        assert store.wait()["complete"]


_TOUCH = """
import mmap, pathlib, sys
with pathlib.Path(sys.argv[1]).open("r+b") as file:
    view = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
print(view[int(sys.argv[2]) << 20])
"""


def test_a_guest_that_touches_a_page_that_failed_is_killed(tmp_path: pathlib.Path) -> None:
    changed = fault.at(1, lab.PLACE, fault.flip)
    with (
        lab.exporting(tmp_path, lab.sources(), changed) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        store.call("add_clone", name="c")
        path = store.mount / "ram" / "c" / "pc.ram"
        command = [sys.executable, "-c", _TOUCH, str(path), str(lab.PLACE)]
        touched = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert (touched.returncode, touched.stdout) == (-signal.SIGBUS, "")


def test_a_reader_that_waits_does_not_hold_up_the_stores_end(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources(), fault.at(2, 8, fault.stall(15))) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        path = store.mount / "disks" / "vda"
        reader = subprocess.Popen(["cat", str(path)], stdout=subprocess.DEVNULL, stderr=-1)
        time.sleep(1)
        assert reader.poll() is None
        store.process._signal(signal.SIGTERM)
        assert store.process.wait(12)
        assert reader.wait(5) != 0
        assert reader.stderr is not None
        # What the reader is told depends on which it meets first: the failed wait or the unmount.
        told = reader.stderr.read()
        assert b"Input/output error" in told or b"not connected" in told
        reader.stderr.close()
        assert not mounts.mounts_below(tmp_path)


def test_a_dismissed_store_is_cut_off(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources(), fault.stall(0.2)) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter, network_limit_s=1)
        time.sleep(1)
        exporter.dismiss("clone")
        assert store.wait()["code"] == "trusted-clone.store.network"


def test_a_store_that_was_killed_leaves_a_mount_that_can_be_taken_off(
    tmp_path: pathlib.Path,
) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        store.process._signal(signal.SIGKILL)
        assert store.process.wait(5)
        assert mounts.mounts_below(tmp_path) == [store.mount]
        mounts.unmount(tmp_path)
        assert not mounts.mounts_below(tmp_path)
        assert list(store.mount.iterdir()) == []
