"""The authority's register of enrolled hosts: one EK, one host id, and whoever comes first keeps
it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping

from nova_trusted_clone.clone import private_files
from nova_trusted_clone.core.attest import roles, strict_json

MAX_REGISTRY = 16 * 1024 * 1024
"""Bytes: some 50,000 hosts."""


class RegistryError(Exception):
    """The register does not allow it; the message names the host."""


@dataclasses.dataclass(frozen=True)
class EnrolledHost:
    """A host as the authority knows it.

    :ivar ek_sha256: of the EK's public key (SubjectPublicKeyInfo), as certificates may be reissued
    :ivar ak_name: the TPM name of its AK
    :ivar enrolled_at: seconds since 1970
    """

    host_id: str
    ek_sha256: bytes
    ak_name: bytes
    enrolled_at: int


class Registry:
    """A JSON file of enrolled hosts."""

    def __init__(self, path: pathlib.Path) -> None:
        """:param path: the file; a lock file stands beside it"""
        self._path = path

    def hosts(self) -> Mapping[str, EnrolledHost]:
        """Return every host by its id.

        :raises MalformedInput: when the file is not a register
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        raw = strict_json.load(data, "registry", MAX_REGISTRY)
        strict_json.keys(raw, "registry", ("version", "hosts"))
        strict_json.number(raw["version"], "registry.version", 1, 1)
        strict_json.keys(raw["hosts"], "registry.hosts", (), raw["hosts"])
        return {host_id: _host(host_id, body) for host_id, body in raw["hosts"].items()}

    def get(self, host_id: str) -> EnrolledHost:
        """Return one host.

        :raises RegistryError: when it is not enrolled
        """
        found = self.hosts().get(host_id)
        if found is None:
            raise RegistryError(f"host {host_id}: not enrolled; run enrol on it first")
        return found

    def require_free(self, host_id: str, ek_sha256: bytes) -> None:
        """Raise unless this EK may be (or already is) this host's.

        :raises RegistryError: when the host has another EK, or the EK is another host's
        """
        for host in self.hosts().values():
            if host.host_id == host_id and host.ek_sha256 != ek_sha256:
                raise RegistryError(
                    f"host {host_id}: enrolled with another TPM (EK {host.ek_sha256.hex()[:16]}…); "
                    "if its TPM was replaced, remove the host from the register first"
                )
            if host.host_id != host_id and host.ek_sha256 == ek_sha256:
                raise RegistryError(
                    f"host {host_id}: its TPM is enrolled already, as host {host.host_id}"
                )

    @contextlib.contextmanager
    def claiming(self, host: EnrolledHost) -> Iterator[None]:
        """Check under the lock that ``host`` may be written, let the caller issue, then write
        it."""
        with private_files.locked(self._path.with_suffix(".lock")):
            self.require_free(host.host_id, host.ek_sha256)
            yield
            self._write({**self.hosts(), host.host_id: host})

    def remove(self, host_id: str) -> None:
        """Take a host out: no more orders name it. Its certificates stay valid: see the policy
        too."""
        with private_files.locked(self._path.with_suffix(".lock")):
            self.get(host_id)
            self._write({name: host for name, host in self.hosts().items() if name != host_id})

    def _write(self, hosts: Mapping[str, EnrolledHost]) -> None:
        raw = {
            "version": 1,
            "hosts": {
                host.host_id: {
                    "ek_sha256": host.ek_sha256.hex(),
                    "ak_name": host.ak_name.hex(),
                    "enrolled_at": host.enrolled_at,
                }
                for host in hosts.values()
            },
        }
        private_files.write(self._path, json.dumps(raw, indent=2, sort_keys=True).encode() + b"\n")


def _host(host_id: str, body: object) -> EnrolledHost:
    where = f"registry.hosts.{host_id[:64]}"
    strict_json.keys(body, where, ("ek_sha256", "ak_name", "enrolled_at"))
    assert isinstance(body, dict)
    return EnrolledHost(
        host_id=roles.require_host_id(host_id),
        ek_sha256=strict_json.hexadecimal(body["ek_sha256"], f"{where}.ek_sha256", 32),
        ak_name=strict_json.hexadecimal(body["ak_name"], f"{where}.ak_name", 34),
        enrolled_at=strict_json.number(body["enrolled_at"], f"{where}.enrolled_at", 0, 1 << 40),
    )
