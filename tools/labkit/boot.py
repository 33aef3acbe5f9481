"""A measured boot of a host: the log that firmware would write, and the same measurements in the host's software TPM."""

from __future__ import annotations

import contextlib
import pathlib

from nova_trusted_clone.tpm import bootlog
from nova_trusted_clone.tpm.esys import EsysTpm

FIRMWARE = "lab 1.0"


def measure(transport: str, log: pathlib.Path, machine: str, firmware: str = FIRMWARE) -> None:
    """Measure a boot of ``machine`` into the TPM at ``transport`` (the product's ``tpm`` option), which was just started.

    :param firmware: another text is another firmware, which no policy knows
    """
    measured = bootlog.events(bootlog.Machine(serial=machine, firmware=firmware))
    with contextlib.closing(EsysTpm(transport)) as tpm:
        log.write_bytes(bootlog.measure_boot(tpm, measured))
