"""The driver for Xen where it differs from Nova's; what Nova itself does is Nova's to test."""

from __future__ import annotations

import pathlib
import types
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import nova.conf
import pytest
from nova import exception, objects
from nova.virt.libvirt import driver as nova_driver
from nova.virt.libvirt import utils as libvirt_utils

from nova_trusted_clone.conf import opts
from nova_trusted_clone.virt.xen import definition
from nova_trusted_clone.virt.xen.definition import Kind
from nova_trusted_clone.virt.xen.driver import XenDriver
from tests.unit.virt import xenguest
from tests.unit.virt.novaguest import DIRECTORY, NAME, SERVER

CONF = nova.conf.CONF
opts.register(CONF)


@pytest.fixture
def xen(
    taught: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[XenDriver]:
    """A driver that has not connected to anything."""
    CONF.set_override("xen_console_log_dir", str(tmp_path), group="trusted_clone")
    monkeypatch.setattr(libvirt_utils, "get_instance_path", lambda _instance: DIRECTORY)
    yield XenDriver(None)
    CONF.clear_override("xen_console_log_dir", group="trusted_clone")


def server() -> types.SimpleNamespace:
    """What is asked of an instance here."""
    return types.SimpleNamespace(name=NAME, uuid=SERVER)


def image(**properties: str) -> objects.ImageMeta:
    """An image's metadata with wishes."""
    return objects.ImageMeta.from_dict({"properties": properties})


class TestTheGuest:
    @pytest.fixture
    def nova_makes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What Nova's own driver would say."""
        monkeypatch.setattr(
            nova_driver.LibvirtDriver,
            "_get_guest_xml",
            lambda *_args, **_kwargs: xenguest.guest(kernel=True).to_xml(),
        )

    @pytest.mark.usefixtures("nova_makes")
    def test_it_is_one_for_xen(self, xen: XenDriver) -> None:
        root = ET.fromstring(xen._get_guest_xml(None, server(), [], {}, image()))
        assert root.findtext("os/type") == "xenpvh"
        assert root.find("clock/timer") is None

    @pytest.mark.usefixtures("nova_makes")
    def test_the_image_s_wish_counts(self, xen: XenDriver) -> None:
        wished = image(hw_machine_type="xenpv")
        root = ET.fromstring(xen._get_guest_xml(None, server(), [], {}, wished))
        assert root.findtext("os/type") == "linux"

    @pytest.mark.usefixtures("nova_makes")
    def test_a_wish_that_xen_cannot_grant_is_named(self, xen: XenDriver) -> None:
        wished = image(hw_machine_type="q35")
        with pytest.raises(exception.UnsupportedHardware, match="'q35' is none of Xen's"):
            xen._get_guest_xml(None, server(), [], {}, wished)


@pytest.fixture
def running(xen: XenDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PVH guest."""
    xml = definition.of_guest(xenguest.guest(kernel=True).to_xml(), Kind.PVH, "unused")
    guest = types.SimpleNamespace(get_xml_desc=lambda: xml)
    monkeypatch.setattr(xen._host, "get_guest", lambda _instance: guest)


class TestWhatIsWrittenDown:
    """Nova keeps an image's missing wishes as they were granted; a clone is made by what it kept of the source."""

    @pytest.mark.usefixtures("running")
    def test_a_server_s_kind_is_its_machine(self, xen: XenDriver) -> None:
        found = xen._find_default_for_image_property(server(), "hw_machine_type", None, None)
        assert found == "xenpvh"

    def test_its_bus_is_nova_s_to_tell(self, xen: XenDriver) -> None:
        info = {"disk_bus": "xen", "cdrom_bus": "xen"}
        found = xen._find_default_for_image_property(server(), "hw_disk_bus", info, None)
        assert found == "xen"

    @pytest.mark.parametrize("wish", ["hw_video_model", "hw_pointer_model", "hw_input_bus"])
    def test_of_what_it_has_not_nothing_is(self, xen: XenDriver, wish: str) -> None:
        assert xen._find_default_for_image_property(server(), wish, None, None) is None


class TestTheConsole:
    @pytest.mark.usefixtures("running")
    def test_it_is_what_xenconsoled_wrote(
        self, xen: XenDriver, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[str] = []
        monkeypatch.setattr(
            xen, "_get_console_output_file", lambda _instance, path: read.append(path) or b"READY"
        )
        log = tmp_path / f"guest-{NAME}.log"
        log.write_text("READY")
        assert xen.get_console_output(None, server()) == b"READY"
        assert read == [str(log)]

    @pytest.mark.usefixtures("running")
    def test_a_daemon_that_writes_nothing_down_is_told(
        self, xen: XenDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        assert xen.get_console_output(None, server()) == b""
        assert "--log=guest" in caplog.text


def test_it_speaks_to_xen_unless_told_otherwise(xen: XenDriver) -> None:
    assert xen._uri() == "xen:///system"
    CONF.set_override("connection_uri", "xen+tcp://198.51.100.1/system", group="libvirt")
    try:
        assert xen._uri() == "xen+tcp://198.51.100.1/system"
    finally:
        CONF.clear_override("connection_uri", group="libvirt")


def test_the_scheduler_is_told_both_modes(xen: XenDriver) -> None:
    assert xen._get_instance_capabilities() == [
        ("x86_64", "xen", "hvm"),
        ("x86_64", "xen", "xen"),
    ]


def test_what_no_xen_guest_has_is_not_offered(xen: XenDriver) -> None:
    told = [
        xen._get_packed_virtqueue_traits(),
        xen._get_sound_model_traits(),
        xen._get_iommu_model_traits(),
    ]
    assert told == [{}, {}, {}]


def test_a_live_migration_is_refused_before_anything_is_prepared(xen: XenDriver) -> None:
    with pytest.raises(exception.MigrationPreCheckError, match="migrate them stopped"):
        xen.check_can_live_migrate_destination(None, server(), None, None)
