"""Xen's names in Nova's tables, and everything that was in them before."""

from __future__ import annotations

import nova.conf
import pytest
from nova import exception, objects
from nova.virt.libvirt import blockinfo, vif

from nova_trusted_clone.virt.xen import names
from tests.unit.virt.conftest import WRAPPED

CONF = nova.conf.CONF


def image(**properties: str) -> objects.ImageMeta:
    """An image's metadata with wishes."""
    return objects.ImageMeta.from_dict({"properties": properties})


def test_nova_does_not_know_xen_by_itself() -> None:
    with pytest.raises(ValueError, match="xen"):
        CONF.set_override("virt_type", "xen", group="libvirt")


@pytest.mark.usefixtures("taught")
class TestTaught:
    def test_the_option_takes_it_and_every_other_still(self) -> None:
        for virt_type in ("kvm", "qemu", "lxc", "parallels", "xen"):
            CONF.set_override("virt_type", virt_type, group="libvirt")
            assert CONF.libvirt.virt_type == virt_type
        with pytest.raises(ValueError, match="hyperv"):
            CONF.set_override("virt_type", "hyperv", group="libvirt")

    def test_the_driver_s_name_has_said_that_it_is_xen(self) -> None:
        assert CONF.libvirt.virt_type == "xen"

    def test_disks_are_xvda_and_so_on(self) -> None:
        assert blockinfo.get_dev_prefix_for_disk_bus("xen") == "xvd"
        assert blockinfo.get_disk_bus_for_disk_dev("xen", "xvdb") == "xen"
        found = blockinfo.find_disk_dev_for_disk_bus({"root": {"dev": "xvda"}}, "xen")
        assert found == "xvdb"

    @pytest.mark.parametrize("device_type", ["disk", "cdrom"])
    def test_disks_and_config_drives_are_on_its_bus(self, device_type: str) -> None:
        found = blockinfo.get_disk_bus_for_device_type(None, "xen", image(), device_type)
        assert found == "xen"

    def test_an_image_s_wish_for_its_bus_is_heard(self) -> None:
        wished = image(hw_disk_bus="xen")
        assert blockinfo.get_disk_bus_for_device_type(None, "xen", wished) == "xen"

    def test_an_image_s_wish_for_another_is_refused(self) -> None:
        with pytest.raises(exception.UnsupportedHardware, match="virtio"):
            blockinfo.get_disk_bus_for_device_type(None, "xen", image(hw_disk_bus="virtio"))

    def test_what_nova_knew_is_as_it_was(self) -> None:
        assert blockinfo.get_dev_prefix_for_disk_bus("virtio") == "vd"
        assert blockinfo.get_disk_bus_for_disk_dev("kvm", "vda") == "virtio"
        assert blockinfo.get_disk_bus_for_device_type(None, "kvm", image()) == "virtio"
        with pytest.raises(exception.InternalError):
            blockinfo.get_dev_prefix_for_disk_bus("uml")

    def test_its_card_is_known(self) -> None:
        assert vif.is_vif_model_valid_for_virt("xen", "netfront")
        assert not vif.is_vif_model_valid_for_virt("xen", "virtio")
        assert not vif.is_vif_model_valid_for_virt("kvm", "netfront")

    def test_teaching_twice_is_teaching_once(self) -> None:
        before = [getattr(blockinfo, name) for name in WRAPPED]
        names.teach()
        assert [getattr(blockinfo, name) for name in WRAPPED] == before
