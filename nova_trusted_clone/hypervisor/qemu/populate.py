"""Make QEMU's page tables complete before the pause.

A background snapshot reads every page first, so that there is a page-table entry to protect;
done from outside beforehand, this costs nothing in the pause. Reading an untouched
page maps the zero page, which takes no memory.
"""

from __future__ import annotations

import logging
import os

import numpy as np

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu.process import ProcessId, opened
from nova_trusted_clone.hypervisor.qemu.ramblocks import RamBlock

LOG = logging.getLogger(__name__)
PAGE = 4096
# pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst): bit 63 present, bit 62 swapped.
_PRESENT = np.uint64(3 << 62)
_CHUNK_PAGES = 1024


def populate(process: ProcessId, block: RamBlock) -> None:
    """Touch the pages of a block that have no entry yet.

    Without the right to look into the process the snapshot does it itself, within the pause: slower, not wrong.
    """
    if block.address is None:
        return
    try:
        with opened(process, "pagemap") as pagemap, opened(process, "mem") as memory:
            if not process.alive():
                return
            pages = block.maximum_bytes // PAGE
            for first in range(0, pages, _CHUNK_PAGES):
                count = min(_CHUNK_PAGES, pages - first)
                at = block.address + first * PAGE
                raw = os.pread(pagemap, count * 8, at // PAGE * 8)
                if not (np.frombuffer(raw, "<u8") & _PRESENT).all():
                    os.pread(memory, count * PAGE, at)
    except (OSError, HypervisorError) as error:
        LOG.info("memory of process %d cannot be populated ahead: %s", process.pid, error)
