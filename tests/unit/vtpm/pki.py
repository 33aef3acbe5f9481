"""A small operator's authority for tests: a vTPM root and a host's vTPM CA."""

import dataclasses
import functools
import time

from cryptography.hazmat.primitives.asymmetric import ec

from nova_trusted_clone.core.attest import issue
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.roles import Role
from nova_trusted_clone.vtpm.issuer import EkIssuer

YEAR_S = 365 * 86400


@dataclasses.dataclass(frozen=True)
class HostCa:
    """A host's vTPM CA below a root."""

    anchors: TrustAnchors
    key: ec.EllipticCurvePrivateKey
    certificate: bytes

    @property
    def issuer(self) -> EkIssuer:
        return EkIssuer(self.key, self.certificate)


@functools.cache
def host_ca(host_id: str = "host-a") -> HostCa:
    now = int(time.time())
    term = {"not_before": now - 600, "not_after": now + YEAR_S}
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = issue.make_root(Role.VTPM, "vTPM root", root_key, serial=1, **term)
    certificate = issue.issue_vtpm_ca(root_key, root, host_id, key.public_key(), serial=2, **term)
    return HostCa(TrustAnchors(vtpm=(root,)), key, certificate)
