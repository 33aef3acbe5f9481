"""A measured boot for machines that have none: a TCG log, and the same measurements in a TPM.

For labs and tests, where a software TPM stands for the hardware. What firmware would measure is
given by a description of the machine, so that two of one kind have equal PCRs but for PCR 1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import uuid
from collections.abc import Sequence

from nova_trusted_clone import ports
from nova_trusted_clone.core.attest import eventlog
from nova_trusted_clone.core.attest.eventlog import Event

# Event types (TCG PC Client Platform Firmware Profile, 10.4.1)
EV_S_CRTM_VERSION = 0x00000008
EV_IPL = 0x0000000D
EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
EV_EFI_VARIABLE_BOOT = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
EV_EFI_BOOT_SERVICES_DRIVER = 0x80000004
EV_EFI_GPT_EVENT = 0x80000006
EV_EFI_ACTION = 0x80000007
EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
EV_EFI_HANDOFF_TABLES = 0x80000009
EV_EFI_VARIABLE_AUTHORITY = 0x800000E0

_GLOBAL_VARIABLE = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_IMAGE_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_SHIM_LOCK = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23")

_PLATFORM_PCRS = range(8)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a machine's firmware measures.

    :ivar serial: of this very machine: it reaches PCR 1 through the SMBIOS tables
    :ivar secure_boot: whether Secure Boot enforces
    """

    model: str = "R1"
    firmware: str = "1.0"
    serial: str = "0001"
    boot_loader: str = "shim 15.8, grub 2.06"
    kernel: str = "linux 6.1.0"
    secure_boot: bool = True


def events(machine: Machine) -> list[Event]:
    """Return the events of one boot of ``machine``, in the order in which firmware makes them."""
    model, firmware = machine.model, machine.firmware
    return [
        _measured(0, EV_S_CRTM_VERSION, f"{model} CRTM {firmware}\0".encode("utf-16-le")),
        _image(0, EV_EFI_PLATFORM_FIRMWARE_BLOB, f"{model} PEI {firmware}"),
        _image(0, EV_EFI_PLATFORM_FIRMWARE_BLOB, f"{model} DXE {firmware}"),
        *_secure_boot_variables(machine),
        _measured(1, EV_EFI_HANDOFF_TABLES, f"SMBIOS {model} {machine.serial}".encode()),
        _image(2, EV_EFI_BOOT_SERVICES_DRIVER, f"{model} network option ROM"),
        _variable(1, EV_EFI_VARIABLE_BOOT, _GLOBAL_VARIABLE, "BootOrder", b"\0\0\1\0"),
        _variable(1, EV_EFI_VARIABLE_BOOT, _GLOBAL_VARIABLE, "Boot0000", b"debian"),
        _measured(4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        *(_measured(pcr, eventlog.EV_SEPARATOR, bytes(4)) for pcr in _PLATFORM_PCRS),
        _measured(5, EV_EFI_GPT_EVENT, f"GPT of {model}".encode()),
        _variable(7, EV_EFI_VARIABLE_AUTHORITY, _IMAGE_SECURITY, "db", b"vendor CA"),
        *(
            _image(4, EV_EFI_BOOT_SERVICES_APPLICATION, part.strip())
            for part in machine.boot_loader.split(",")
        ),
        _variable(7, EV_EFI_VARIABLE_AUTHORITY, _SHIM_LOCK, "Shim", b"distribution CA"),
        _measured(8, EV_IPL, f"kernel_cmdline: {machine.kernel} root=/dev/vda1".encode()),
        _image(9, EV_IPL, machine.kernel),
        _measured(5, EV_EFI_ACTION, b"Exit Boot Services Invocation"),
        _measured(5, EV_EFI_ACTION, b"Exit Boot Services Returned with Success"),
    ]


def measure_boot(tpm: ports.Tpm, boot: Sequence[Event]) -> bytes:
    """Extend ``tpm``, which was just powered on, by ``boot``; return the log, as the kernel
    shows it."""
    for pcr, digest in eventlog.measured(boot, range(24)):
        tpm.extend(pcr, digest)
    return eventlog.build(boot)


def _measured(pcr: int, kind: int, data: bytes) -> Event:
    """An event whose data is itself what is measured."""
    return Event(pcr, kind, hashlib.sha256(data).digest(), data)


def _image(pcr: int, kind: int, what: str) -> Event:
    """An event that names an image, of which the digest is measured."""
    return Event(pcr, kind, hashlib.sha256(b"image of " + what.encode()).digest(), what.encode())


def _variable(pcr: int, kind: int, vendor: uuid.UUID, name: str, value: bytes) -> Event:
    """A UEFI_VARIABLE_DATA event (profile, 10.2.6)."""
    head = vendor.bytes_le + struct.pack("<QQ", len(name), len(value))
    return _measured(pcr, kind, head + name.encode("utf-16-le") + value)


def _secure_boot_variables(machine: Machine) -> list[Event]:
    values = {
        "SecureBoot": bytes([machine.secure_boot]),
        "PK": f"{machine.model} platform key".encode(),
        "KEK": b"key exchange keys",
    }
    listed = {"db": b"signatures allowed", "dbx": b"signatures revoked"}
    kind = EV_EFI_VARIABLE_DRIVER_CONFIG
    return [
        *(_variable(7, kind, _GLOBAL_VARIABLE, name, value) for name, value in values.items()),
        *(_variable(7, kind, _IMAGE_SECURITY, name, value) for name, value in listed.items()),
    ]
