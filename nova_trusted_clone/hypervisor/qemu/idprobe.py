"""Learn which id libvirt will give to the next domain.

libvirt counts ids up and shows only those of running domains. A domain that is started, never runs and ends at once shows
the count.
"""

from __future__ import annotations

import secrets
import uuid
import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from nova_trusted_clone.hypervisor.qemu import definition


def learn_id(libvirtd: Any, like: str) -> int:
    """The id of a domain that was started just now, and is gone.

    :param like: a definition whose emulator and kind of virtualization this host has
    """
    root = ET.Element("domain", type=definition.parse(like).get("type", "qemu"))
    ET.SubElement(root, "name").text = f"ntc-probe-{secrets.token_hex(6)}"
    ET.SubElement(root, "uuid").text = str(uuid.uuid4())
    ET.SubElement(root, "memory", unit="MiB").text = "16"
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch="x86_64").text = "hvm"
    devices = ET.SubElement(root, "devices")
    ET.SubElement(devices, "memballoon", model="none")
    flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
    domain = libvirtd.createXML(ET.tostring(root, encoding="unicode"), flags)
    found = int(domain.ID())
    domain.destroy()
    return found
