"""Reference values: what a golden host's PCRs are, and whether its log explains them."""

from __future__ import annotations

from collections.abc import Mapping

from nova_trusted_clone.core.attest import eventlog
from nova_trusted_clone.core.attest.quote import HOST_PCRS
from nova_trusted_clone.core.attest.verdict import Verdict
from nova_trusted_clone.ports import Tpm


def compare(values: Mapping[int, bytes], log: bytes) -> Verdict:
    """Judge whether a measured-boot log leads to these values of PCR 0 to 7.

    :raises MalformedInput: when the log cannot be read
    """
    told = eventlog.replay(eventlog.parse(log))
    return Verdict.joined(
        Verdict.of(
            f"trusted-clone.event-log.pcr-{pcr}",
            told[pcr] == values[pcr],
            f"PCR {pcr} is {values[pcr].hex()}",
            f"{told[pcr].hex()} by the event log; is it this boot's log?",
        )
        for pcr in HOST_PCRS
    )


def measure(tpm: Tpm, log: bytes) -> Mapping[int, bytes]:
    """Return the host's PCR 0 to 7, which its log explains.

    :raises Refused: naming each PCR that the log does not lead to: clones could not inherit it
    """
    values = tpm.read_pcrs(HOST_PCRS)
    compare(values, log).require()
    return values
