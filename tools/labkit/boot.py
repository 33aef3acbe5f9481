"""A measured boot, as a host's firmware and boot loader do it (TCG PC Client Platform Firmware Profile 1.05, 3.3.4).

A virtual machine has no such firmware; so the lab writes the log that a real machine's would write and extends the host's TPM
by it. The product then reads both as it does on hardware.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib

from nova_trusted_clone.core.attest import eventlog
from nova_trusted_clone.core.attest.eventlog import Event
from nova_trusted_clone.tpm.esys import EsysTpm

EV_S_CRTM_VERSION = 0x00000008
EV_POST_CODE = 0x00000001
EV_SEPARATOR = 0x00000004
EV_IPL = 0x0000000D
EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
EV_EFI_VARIABLE_BOOT = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
EV_EFI_GPT_EVENT = 0x80000006
EV_EFI_ACTION = 0x80000007
EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
EV_EFI_HANDOFF_TABLES = 0x80000009
EV_EFI_VARIABLE_AUTHORITY = 0x800000E0

FIRMWARE = "lab firmware 1.0"


def events(machine: str, firmware: str = FIRMWARE) -> list[Event]:
    """What a boot of ``machine`` measures. PCR 1 differs from machine to machine (serial numbers), the others do not.

    :param firmware: another text is another firmware, which no policy knows
    """
    wide = firmware.encode("utf-16-le")
    found = [
        eventlog.startup_locality(3),
        _of(0, EV_S_CRTM_VERSION, wide),
        _of(0, EV_EFI_PLATFORM_FIRMWARE_BLOB, b"\x00\x00\x80\xff" + wide, hashed=b"PEI of " + wide),
        _of(0, EV_POST_CODE, b"EMBEDDED ACPI TABLES", hashed=b"ACPI of " + wide),
        _of(1, EV_EFI_HANDOFF_TABLES, b"SMBIOS", hashed=f"serial number of {machine}".encode()),
        _of(1, EV_EFI_VARIABLE_BOOT, "BootOrder".encode("utf-16-le") + b"\x00\x00"),
        _of(2, EV_EFI_BOOT_SERVICES_APPLICATION, b"option ROM of the network card"),
    ]
    for name in ("SecureBoot", "PK", "KEK", "db", "dbx"):
        found.append(_of(7, EV_EFI_VARIABLE_DRIVER_CONFIG, name.encode("utf-16-le") + b"\x01"))
    # The line between the firmware's own measurements and those of what it starts.
    found += [_of(pcr, EV_SEPARATOR, bytes(4)) for pcr in range(8)]
    found += [
        _of(7, EV_EFI_VARIABLE_AUTHORITY, b"db: the operator's key"),
        _of(5, EV_EFI_GPT_EVENT, b"partition table"),
        _of(4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        _of(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"shim"),
        _of(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"grub"),
        _of(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"kernel"),
        _of(5, EV_EFI_ACTION, b"Exit Boot Services Invocation"),
        _of(5, EV_EFI_ACTION, b"Exit Boot Services Returned with Success"),
        _of(8, EV_IPL, b"grub_cmd: linux"),
        _of(9, EV_IPL, b"vmlinuz"),
    ]
    return found


def measure(transport: str, log: pathlib.Path, measured: list[Event]) -> None:
    """Extend the TPM at ``transport`` (the product's ``tpm`` option) by ``measured`` and write the log.

    The TPM was just started: each boot is measured once.
    """
    with contextlib.closing(EsysTpm(transport)) as tpm:
        for pcr, digest in eventlog.measured(measured, range(24)):
            tpm.extend(pcr, digest)
    log.write_bytes(eventlog.build(measured))


def _of(pcr: int, event_type: int, data: bytes, hashed: bytes | None = None) -> Event:
    """An event about ``data``, or about something larger than the log holds."""
    return Event(pcr, event_type, hashlib.sha256(data if hashed is None else hashed).digest(), data)
