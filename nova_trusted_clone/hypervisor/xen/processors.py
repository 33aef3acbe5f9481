"""Which of the host's processors run a domain.

libvirt's libxl driver keeps ``<vcpu cpuset=…>`` and does not tell Xen (seen with libvirt 9.0: the domain runs anywhere). What
it does hand over is each processor's ``<vcpupin>``. So a definition that is ours says it both ways.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

# Xen's own limit for a domain is lower (HVM_MAX_VCPUS); a definition of a peer's does not decide how long ours becomes.
MAX_PROCESSORS = 4096


def place(root: ET.Element, cpuset: str | None) -> None:
    """Have all processors of a domain run on ``cpuset``, in place of what its definition says.

    :param root: ``<domain>``; changed
    :param cpuset: as in libvirt's ``<vcpu cpuset=…>``; any of the host's where it is none
    :raises ValueError: how many processors the domain has is no number, or none that Xen has
    """
    processors = root.find("vcpu")
    if processors is None:
        return
    processors.attrib.pop("cpuset", None)
    for element in root.findall("cputune"):
        for pin in element.findall("vcpupin"):
            element.remove(pin)
        if len(element) == 0:
            root.remove(element)
    if cpuset is None:
        return
    count = int(processors.text or "1")
    if not 0 < count <= MAX_PROCESSORS:
        raise ValueError(f"{count} processors, at most {MAX_PROCESSORS}")
    processors.set("cpuset", cpuset)
    tuning = root.find("cputune")
    if tuning is None:
        tuning = ET.SubElement(root, "cputune")
    for number in range(count):
        ET.SubElement(tuning, "vcpupin", vcpu=str(number), cpuset=cpuset)


def are_pinned_singly(root: ET.Element) -> bool:
    """Whether a processor of the domain has a place of its own, other than that of all of them."""
    processors = root.find("vcpu")
    of_all = processors.get("cpuset") if processors is not None else None
    return any(pin.get("cpuset") != of_all for pin in root.iterfind("cputune/vcpupin"))
