"""A store process fetches a freeze over loopback and serves it through FUSE to ordinary readers."""

from __future__ import annotations

import hashlib
import os
import pathlib

import pytest

from nova_trusted_clone.datapath import mounts
from tests.integration import store_lab as lab

pytestmark = pytest.mark.integration


def test_everything_is_verified_and_read_back_through_mmap(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        store.call("add_clone", name="clone-1")
        path = store.mount / "ram" / "clone-1" / "pc.ram"

        content = lab.CONTENT[1]
        assert lab.digest_through_mmap(path) == hashlib.sha256(content).hexdigest()
        assert path.read_bytes() == lab.CONTENT[1]
        assert (store.mount / "disks" / "vda").read_bytes() == lab.CONTENT[2]
        status = store.wait()
        device = pathlib.Path(store.call("read_region", region=3)["path"])

        assert device.read_bytes() == lab.CONTENT[3]
        assert status["counts"]["bytes"] == sum(map(len, lab.CONTENT.values()))
        assert status["counts"]["zero_leaves"] > 1000
        root = exporter.root()
        assert root is not None
        assert (status["root"], status["counts"]["leaves"]) == (lab.text(root[0]), root[1].leaves)


def test_siblings_share_one_fetch(tmp_path: pathlib.Path) -> None:
    sources = lab.sources()
    with (
        lab.exporting(tmp_path, sources) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        for clone in ("one", "two"):
            store.connect(exporter, port, clone)
            store.fetch(exporter)
            store.call("add_clone", name=clone)
        for clone in ("one", "two"):
            assert (store.mount / "ram" / clone / "pc.ram").read_bytes() == lab.CONTENT[1]
        status = store.wait()

    not_zero = status["counts"]["leaves"] - status["counts"]["zero_leaves"]
    assert status["bytes_received"] <= not_zero * 4096
    assert status["bytes_received"] > (not_zero - 3) * 4096
    # At most once for the signer and once for the one store.
    assert len(sources[0].reads) <= 2 * 64


def test_what_libvirt_and_qemu_do_to_the_files_is_tolerated_and_changes_no_byte(
    tmp_path: pathlib.Path,
) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        directory = store.mount / "ram" / "clone-1"
        directory.mkdir()
        path = directory / "pc.ram"
        os.chown(path, 1234, 1234)
        path.chmod(0o600)
        os.utime(path)
        assert path.stat().st_uid == 1234
        os.truncate(path, path.stat().st_size)
        path.unlink()
        assert not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        with pytest.raises(OSError, match="Read-only"):
            os.write(descriptor, b"x")
        os.close(descriptor)
        for refused in (
            lambda: os.truncate(path, 0),
            lambda: (directory / "other").write_bytes(b""),
            lambda: (store.mount / "disks" / "vda").unlink(),
            lambda: (store.mount / "x").mkdir(),
            lambda: (store.mount / "disks" / "vda").open("r+b"),
        ):
            with pytest.raises(OSError, match="Read-only"):
                refused()
        assert path.read_bytes() == lab.CONTENT[1]
        path.unlink()
        directory.rmdir()


def test_eager_serves_only_when_all_is_verified(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter, mode="eager")
        assert (store.mount / "disks" / "vda").read_bytes() == lab.CONTENT[2]
        assert store.call("status")["complete"]


def test_the_end_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        store.wait()
        store.call("stop")
        assert store.process.wait(10)
        assert not mounts.mounts_below(tmp_path)
        assert not (tmp_path / "store" / "pages").exists()
