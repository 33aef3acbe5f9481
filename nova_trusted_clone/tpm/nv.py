"""The EK certificate in a TPM's non-volatile memory: read on any TPM, written into a vTPM at its
making.

Needs the platform hierarchy to write, which a machine's firmware closes: only the maker of a TPM
can do it.
"""

from __future__ import annotations

from typing import Any

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_PT_NV,
    TPM2B_NV_PUBLIC,
    TPMA_NV,
    TPMS_NV_PUBLIC,
)

from nova_trusted_clone.tpm import base

MAX_CERTIFICATE = 4096
"""Bytes; certificates of hardware TPMs have 1 to 2 KiB."""

_IDENTITY_FIRST, _IDENTITY_LAST = 0x01C00000, 0x01C0FFFF
"""EK certificates, templates, nonces and the platform's certificate (TCG Registry of Reserved TPM 2.0
Handles, 2.2.2)."""

_MAX_BUFFER = 512
"""Bytes an NV command may carry on any TPM that states no limit of its own."""

_ATTRIBUTES = (
    TPMA_NV.PPWRITE
    | TPMA_NV.WRITEDEFINE
    | TPMA_NV.PPREAD
    | TPMA_NV.OWNERREAD
    | TPMA_NV.AUTHREAD
    | TPMA_NV.NO_DA
    | TPMA_NV.PLATFORMCREATE
)
"""Readable by all, writable once, removable by the platform only (EK Credential Profile 2.2.1.2;
swtpm_setup's own choice)."""


def read_certificate(esys: Any, index: int) -> bytes | None:
    """Return the DER certificate at ``index``, or None when the index does not exist.

    Makers may pad the index: what follows the certificate's own length is cut off.
    """
    if not _exists(esys, index):
        return None
    handle = esys.tr_from_tpmpublic(index)
    try:
        public, _name = esys.nv_read_public(handle)
        size = int(public.nvPublic.dataSize)
        if size > MAX_CERTIFICATE:
            raise base.TpmError(
                f"NV 0x{index:08x}: {size} bytes, expected at most {MAX_CERTIFICATE}"
            )
        step, data = _buffer_size(esys), bytearray()
        while len(data) < size:
            data += bytes(esys.nv_read(handle, min(step, size - len(data)), len(data)))
    finally:
        esys.tr_close(handle)
    return _without_padding(index, bytes(data))


def write_certificate(esys: Any, index: int, certificate: bytes) -> None:
    """Write ``certificate`` to ``index``, in place of what stood there, and lock it.

    Needs platform authorization.
    """
    if len(certificate) > MAX_CERTIFICATE:
        raise ValueError(
            f"EK certificate: {len(certificate)} bytes, expected at most {MAX_CERTIFICATE}"
        )
    if _exists(esys, index):
        esys.nv_undefine_space(esys.tr_from_tpmpublic(index), auth_handle=ESYS_TR.PLATFORM)
    area = TPMS_NV_PUBLIC(
        nvIndex=index,
        nameAlg=TPM2_ALG.SHA256,
        attributes=_ATTRIBUTES,
        dataSize=len(certificate),
    )
    handle = esys.nv_define_space(
        None, TPM2B_NV_PUBLIC(nvPublic=area), auth_handle=ESYS_TR.PLATFORM
    )
    try:
        step = _buffer_size(esys)
        for offset in range(0, len(certificate), step):
            part = certificate[offset : offset + step]
            esys.nv_write(handle, part, offset, auth_handle=ESYS_TR.PLATFORM)
        esys.nv_write_lock(handle, auth_handle=ESYS_TR.PLATFORM)
    finally:
        esys.tr_close(handle)


def remove_identity(esys: Any) -> None:
    """Remove every index of the TCG's range for EK and platform certificates.

    Needs platform authorization.
    """
    more = True
    while more:
        more, data = esys.get_capability(TPM2_CAP.HANDLES, _IDENTITY_FIRST, 32)
        found = [int(handle) for handle in data.data.handles]
        for index in (index for index in found if index <= _IDENTITY_LAST):
            esys.nv_undefine_space(esys.tr_from_tpmpublic(index), auth_handle=ESYS_TR.PLATFORM)
        more = bool(more) and bool(found) and found[-1] <= _IDENTITY_LAST


def handle_exists(esys: Any, handle: int) -> bool:
    """Tell whether a persistent object or an NV index is there."""
    _more, data = esys.get_capability(TPM2_CAP.HANDLES, handle, 1)
    return any(int(found) == handle for found in data.data.handles)


def _exists(esys: Any, index: int) -> bool:
    return handle_exists(esys, index)


def _buffer_size(esys: Any) -> int:
    _more, data = esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT_NV.BUFFER_MAX, 1)
    for entry in data.data.tpmProperties:
        if int(entry.property) == int(TPM2_PT_NV.BUFFER_MAX):
            return int(entry.value)
    return _MAX_BUFFER


def _without_padding(index: int, data: bytes) -> bytes:
    """Cut ``data`` to the DER SEQUENCE that it starts with (X.690, 8.1.3)."""
    if len(data) < 4 or data[0] != 0x30 or data[1] != 0x82:
        raise base.TpmError(
            f"NV 0x{index:08x}: no DER certificate, it starts with {data[:4].hex()}"
        )
    length = 4 + int.from_bytes(data[2:4], "big")
    if length > len(data):
        raise base.TpmError(f"NV 0x{index:08x}: a certificate of {length} bytes in {len(data)}")
    return data[:length]
