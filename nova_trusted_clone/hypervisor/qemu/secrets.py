"""Passphrases that this host's libvirt keeps as secrets.

libvirt gives a secret's value to its clients unless it was defined ``private``; then only libvirt itself uses it.
"""

from __future__ import annotations

import libvirt

from nova_trusted_clone.hypervisor.base import HypervisorError
from nova_trusted_clone.hypervisor.qemu import connection
from nova_trusted_clone.ports import Passphrase, PassphraseUnavailable


class LibvirtPassphrases:
    """Reads passphrases of vTPMs' state from the libvirt at ``uri``."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __call__(self, server_uuid: str, secret_uuid: str) -> Passphrase:
        """The passphrase that a server's definition names.

        :raises PassphraseUnavailable: there is none, or libvirt keeps it to itself
        """
        try:
            with connection.connected(self._uri) as libvirtd:
                return Passphrase(bytes(libvirtd.secretLookupByUUIDString(secret_uuid).value()))
        except (libvirt.libvirtError, HypervisorError) as error:
            raise PassphraseUnavailable(
                f"server {server_uuid}: the passphrase of its vTPM's state, secret {secret_uuid}, cannot be read: {error}"
            ) from error
