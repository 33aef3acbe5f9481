"""The contract of the vTPM adapters is ``ports.VtpmFactory``; here are their errors and limits."""

from __future__ import annotations

MAX_BLOB = 1 << 20
"""Bytes of one state blob. libtpms' whole NV memory has 176 KiB, volatile state less."""


class VtpmError(Exception):
    """A vTPM could not be made, started or saved; the message names the step."""


class VtpmStateError(VtpmError):
    """State blobs that are not a TPM 2.0 of swtpm's, or not in the condition that was asked for."""


class VtpmGoneError(VtpmError):
    """The vTPM was handed over or discarded: it takes no more commands."""


class VtpmReadOnlyError(VtpmError):
    """A shadow of a frozen vTPM quotes and nothing else."""
