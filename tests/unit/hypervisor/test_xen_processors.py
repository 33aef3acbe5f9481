"""Which of the host's processors run a domain: said in the one way that libxl's driver hands on, too."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from nova_trusted_clone.hypervisor.qemu import definition
from nova_trusted_clone.hypervisor.xen import inspect, processors


def placed(text: str, cpuset: str | None) -> tuple[str | None, list[tuple[str | None, str | None]]]:
    root = ET.fromstring(text)
    processors.place(root, cpuset)
    vcpu = root.find("vcpu")
    assert vcpu is not None
    pins = [(pin.get("vcpu"), pin.get("cpuset")) for pin in root.iterfind("cputune/vcpupin")]
    return vcpu.get("cpuset"), pins


def test_each_processor_is_placed():
    assert placed("<domain><vcpu>2</vcpu></domain>", "1-3") == ("1-3", [("0", "1-3"), ("1", "1-3")])


def test_the_place_on_another_host_says_nothing_on_this_one():
    theirs = (
        "<domain><vcpu cpuset='7'>1</vcpu><cputune><shares>2</shares>"
        "<vcpupin vcpu='0' cpuset='7'/></cputune></domain>"
    )
    assert placed(theirs, "1") == ("1", [("0", "1")])
    assert placed(theirs, None) == (None, [])


def test_nothing_is_left_of_an_empty_element():
    root = ET.fromstring(
        "<domain><vcpu>1</vcpu><cputune><vcpupin vcpu='0' cpuset='7'/></cputune></domain>"
    )
    processors.place(root, None)
    assert root.find("cputune") is None


@pytest.mark.parametrize("count", ["0", "-1", "4097", "many"])
def test_a_number_that_no_domain_has_is_refused(count):
    with pytest.raises(ValueError, match=count):
        placed(f"<domain><vcpu>{count}</vcpu></domain>", "1")


def test_a_server_whose_processors_all_have_one_place_can_be_cloned():
    root = ET.fromstring("<domain><vcpu>2</vcpu></domain>")
    processors.place(root, "1-2")
    assert inspect.device_obstacles(definition.parse(ET.tostring(root, encoding="unicode"))) == []


@pytest.mark.parametrize("vcpu", ["<vcpu cpuset='1-2'>2</vcpu>", "<vcpu>2</vcpu>"])
def test_one_whose_processors_have_places_of_their_own_cannot(vcpu):
    pins = "<cputune><vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='1' cpuset='2'/></cputune>"
    (found,) = inspect.device_obstacles(definition.parse(f"<domain>{vcpu}{pins}</domain>"))
    assert "pinned" in found
