"""The bench: how long things take, as ratios within one run.

``python -m bench [--quick] [--only NAME] [--output DIR]``, or ``tools/lab bench``.

==================  ============================================================================
``hash_memory``     the paper's Figure 4: hashing 1, 2, 4 … 131072 pages
``hash_disk``       the paper's Figure 5: hashing disks of 1, 2, 4 … 64 GiB
``transfer``        exporter to store over TLS, with and without the verifier; their memory
``pause``           how long a freeze stops a running guest, beside QEMU's own snapshot
``first_output``    from the order to the clone's first output, at several sizes of memory
``cloud_active``    from a request to ACTIVE, a clone beside a server that Nova makes
``cloud_requests``  ``GET /servers`` with and without the API's extension
``xen_freeze``      how long a freeze stops a Xen guest, beside ``xl save -c``
==================  ============================================================================

Each measures what it compares by turns within one run, since a machine's speed drifts; it returns a
``report.Report`` of plain values, which is written as JSON and drawn. Below them: ``sampling`` (by
turns, medians, spread), ``figure`` (wanted and reached), ``machine`` (what it ran on), ``drawing``,
``peer`` and ``roles`` (the processes at the ends of a transfer), ``labhosts`` (two hosts of the lab).

Nothing in the product imports this, and no option of the product does what the bench does to leave
parts out.
"""

import pathlib
import sys

# The lab's package lies in tools/, for the lab and the bench alone.
_TOOLS = str(pathlib.Path(__file__).resolve().parents[1] / "tools")
if _TOOLS not in sys.path:
    sys.path.append(_TOOLS)
