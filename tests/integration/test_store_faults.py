"""What is not what the source signed never reaches a reader; a network that comes back harms nothing."""

from __future__ import annotations

import errno
import pathlib
import signal
import threading
import time
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.core.integrity.leaf import Buffer
from nova_trusted_clone.datapath import mounts
from nova_trusted_clone.datapath.control import ControlError
from nova_trusted_clone.datapath.errors import SourceGone
from nova_trusted_clone.datapath.filters import fault
from nova_trusted_clone.datapath.sources import FakeSource
from tests.integration import store_lab as lab
from tests.integration.relay import Relay, relaying

pytestmark = pytest.mark.integration
KEY = Ed25519PrivateKey.generate()


def refused(path: pathlib.Path) -> bool:
    """Whether a read fails with EIO."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno == errno.EIO
    return False


@pytest.mark.parametrize(
    ("injected", "code"),
    [
        (fault.at(1, lab.PLACE, fault.flip), "trusted-clone.segment.leaf"),
        (fault.at(2, 3, fault.flip), "trusted-clone.segment.leaf"),
        (fault.at(1, lab.PLACE, fault.swap), "trusted-clone.segment.leaf"),
        (fault.at(1, lab.PLACE, fault.truncate), "trusted-clone.segment.length"),
        (fault.at(1, lab.PLACE, fault.flip_signature), "trusted-clone.segment.signature"),
        (fault.at(1, lab.PLACE, fault.forge()), "trusted-clone.segment.signature"),
        (fault.at(1, lab.PLACE, fault.replay(KEY, bytes(16))), "trusted-clone.segment.freeze"),
        (fault.at(1, lab.PLACE, fault.stale(KEY, 2)), "trusted-clone.segment.epoch"),
    ],
    ids=["flip-ram", "flip-disk", "swap", "truncate", "signature", "forge", "replay", "stale"],
)
def test_a_changed_reply_ends_the_transfer_and_no_byte_of_it_is_served(
    tmp_path: pathlib.Path, injected: fault.Fault, code: str
) -> None:
    with (
        lab.exporting(tmp_path, lab.sources(), injected, KEY) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        status = store.wait()
        store.call("add_clone", name="c")

        assert (status["phase"], status["code"]) == ("failed", code)
        assert "segment" in status["reason"]
        assert refused(store.mount / "ram" / "c" / "pc.ram")
        assert refused(store.mount / "disks" / "vda")
        with pytest.raises(ControlError):
            store.call("read_region", region=1)
        assert not exporter.status()["failed"]


def test_a_segment_in_another_place_is_refused(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources(), fault.Move()) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        assert store.wait()["code"] in (
            "trusted-clone.segment.region",
            "trusted-clone.segment.index",
        )


@pytest.mark.parametrize("how", ["silence", "cut"])
def test_a_network_that_is_away_for_five_seconds_is_waited_for(
    tmp_path: pathlib.Path, how: str
) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        relaying(port) as relay,
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, relay.port)
        after(8 << 20, relay, getattr(relay, how))
        store.fetch(exporter, network_limit_s=30)
        time.sleep(5)
        assert not store.call("status")["reason"]
        relay.heal()
        status = store.wait()
        assert status["complete"], status
        assert (store.mount / "disks" / "vda").read_bytes() == lab.CONTENT[2]


def after(forwarded: int, relay: Relay, act: Callable[[], None]) -> None:
    """Act on the relay once so many bytes went through."""

    def watch() -> None:
        while relay.forwarded < forwarded:
            time.sleep(0.001)
        act()

    threading.Thread(target=watch, daemon=True).start()


def test_a_network_that_stays_away_ends_the_transfer_at_the_limit(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        relaying(port) as relay,
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, relay.port)
        after(8 << 20, relay, relay.cut)
        began = time.monotonic()
        store.fetch(exporter, network_limit_s=2)
        status = store.wait()
        store.call("add_clone", name="c")

        assert status["code"] == "trusted-clone.store.network"
        assert "2 s" in status["reason"]
        assert time.monotonic() - began > 1.5
        assert refused(store.mount / "ram" / "c" / "pc.ram")


class SlowSource(FakeSource):
    """Has its last segment only after a while, as a drain that is not there yet."""

    def read(self, index: int) -> Buffer:
        """Wait for the last one."""
        if index == self.region.segments - 1:
            time.sleep(5)
        return super().read(index)


def test_a_page_that_the_source_does_not_have_yet_is_waited_for(tmp_path: pathlib.Path) -> None:
    ram, *others = lab.sources()
    given = [SlowSource(lab.RAM, ram.data), *others]
    with (
        lab.exporting(tmp_path, given) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        # The limit is shorter than the wait: notices keep the line alive.
        store.fetch(exporter, network_limit_s=4)
        status = store.wait()
        assert status["complete"], status


class GoneSource(FakeSource):
    """Its server was shut down in mid transfer."""

    def read(self, index: int) -> Buffer:
        """Fail from the middle on."""
        if index >= self.region.segments // 2:
            raise SourceGone("the source server was shut down")
        return super().read(index)


def test_a_source_that_goes_away_ends_the_transfer_with_the_reason(tmp_path: pathlib.Path) -> None:
    ram, *others = lab.sources()
    given = [GoneSource(lab.RAM, ram.data), *others]
    with (
        lab.exporting(tmp_path, given) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        store.connect(exporter, port)
        store.fetch(exporter)
        status = store.wait()
        assert "the source server was shut down" in status["reason"]
        assert "shut down" in str(exporter.status()["failed"])


def test_a_killed_store_is_started_again_and_goes_on_with_what_it_had(
    tmp_path: pathlib.Path,
) -> None:
    hold = fault.at(1, 60, fault.stall(5))
    with (
        lab.exporting(tmp_path, lab.sources(), hold) as (exporter, port),
        lab.storing(tmp_path / "store") as first,
    ):
        first.connect(exporter, port)
        first.fetch(exporter)
        while (before := first.call("status"))["pages_verified"] < 1000:
            time.sleep(0.05)
        first.process._signal(signal.SIGKILL)
        assert first.process.wait(5)
        (tmp_path / "store" / "control.sock").unlink()
        mounts.unmount(tmp_path / "store")

        with lab.storing(tmp_path / "store") as second:
            second.connect(exporter, port)
            second.fetch(exporter)
            status = second.wait()
            assert status["complete"], status
            assert status["bytes_received"] < 64 << 20
            assert (
                status["bytes_received"]
                <= (status["pages_total"] - before["pages_verified"]) * 4096
            )
            second.call("add_clone", name="c")
            assert (second.mount / "ram" / "c" / "pc.ram").read_bytes() == lab.CONTENT[1]


def test_a_store_that_was_not_admitted_gets_nothing(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
        lab.storing(tmp_path / "other") as other,
    ):
        other.connect(exporter, port)
        store.call(
            "connect",
            host="127.0.0.1",
            port=port,
            peer_certificate=lab.text(exporter.certificate_der),
            freeze_id=lab.FREEZE.hex(),
        )
        store.fetch(exporter, network_limit_s=1)
        assert store.wait()["code"] == "trusted-clone.store.network"
        assert exporter.status()["served_bytes"] == 0


def test_another_exporter_than_the_pinned_one_is_not_spoken_to(tmp_path: pathlib.Path) -> None:
    with (
        lab.exporting(tmp_path, lab.sources()) as (honest, _),
        lab.exporting(tmp_path, lab.sources()) as (impostor, port),
        lab.storing(tmp_path / "store") as store,
    ):
        impostor.admit(store.certificate, "c")
        store.connect(honest, port)
        store.fetch(honest, network_limit_s=1)
        assert store.wait()["code"] == "trusted-clone.store.network"
        assert impostor.status()["served_bytes"] == 0


def test_a_disk_copied_early_is_used_only_where_the_frozen_one_is_the_same(
    tmp_path: pathlib.Path,
) -> None:
    live = bytearray(lab.CONTENT[2])
    live[5 << 20 : (5 << 20) + 100] = b"x" * 100
    with (
        lab.exporting(tmp_path, []) as (exporter, port),
        lab.storing(tmp_path / "store") as store,
    ):
        exporter.offer_early([FakeSource(lab.DISK, live)])
        store.connect(exporter, port)
        store.call("early", regions=[[2, "disk", "vda", lab.DISK.size_bytes]])
        while not store.call("status")["early_passes"]:
            time.sleep(0.05)
        exporter.publish(lab.sources())
        store.fetch(exporter)
        status = store.wait()

        assert status["complete"], status
        assert (store.mount / "disks" / "vda").read_bytes() == lab.CONTENT[2]
        disk_pages = lab.DISK.leaves
        assert disk_pages * 0.5 < status["promoted_pages"] < disk_pages
        root = exporter.root()
        assert root is not None and status["root"] == lab.text(root[0])


def test_a_bad_control_request_is_told_which_field_is_wrong(tmp_path: pathlib.Path) -> None:
    with lab.storing(tmp_path / "store") as store:
        for arguments, field in (
            ({}, "host"),
            ({"host": 1, "port": 1, "peer_certificate": "", "freeze_id": ""}, "host"),
            ({"host": "h", "port": "1", "peer_certificate": "", "freeze_id": ""}, "port"),
            ({"host": "h", "port": 1, "peer_certificate": "!", "freeze_id": ""}, "peer_cert"),
            ({"host": "h", "port": 1, "peer_certificate": "", "freeze_id": "zz"}, "freeze_id"),
            ({"x": 1}, "x"),
        ):
            with pytest.raises(ControlError, match=field):
                store.call("connect", **arguments)
        with pytest.raises(ControlError, match=r"regions\[0\]"):
            store.call(
                "fetch", page_key=lab.text(bytes(32)), freeze_id="00" * 16, regions=[{"id": 1}]
            )
