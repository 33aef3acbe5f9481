"""The passphrase under which a vTPM's state is kept, and libvirt's copy of it.

Nova keeps it in the key manager, and defines it in libvirt for as long as a guest starts: private and ephemeral, so that
nobody can read it there; for flavors with ``hw:tpm_secret_security=host`` for good, and readable (nova.vtpm,
LibvirtDriver._get_or_create_secret_for_vtpm). The engine has to read it, since it makes the state that QEMU will load: so a
clone's is defined ephemeral and readable by libvirt's other clients, root on this host, from its claim to its start.
"""

from __future__ import annotations

from typing import Any

import nova.conf
from nova import context as nova_context
from nova import objects, vtpm
from nova.virt import hardware

from nova_trusted_clone.ports import PassphraseUnavailable

CONF = nova.conf.CONF


def define_for_clone(driver: Any, context: Any, instance: Any, image_meta: Any) -> None:
    """Have the clone's secret in libvirt, made in the key manager if need be. Nothing without a vTPM."""
    wanted = hardware.get_vtpm_constraint(instance.flavor, image_meta)
    if not (CONF.libvirt.swtpm_enabled and wanted):
        return
    if _stays(instance):
        driver._get_or_create_secret_for_vtpm(context, instance)
        return
    secret_uuid, passphrase = vtpm.get_or_create_secret(context, instance)
    driver._host.delete_secret("vtpm", instance.uuid)
    driver._host.create_secret(
        "vtpm",
        instance.uuid,
        password=passphrase,
        uuid=secret_uuid,
        ephemeral=True,
        private=False,
    )


def let_go(driver: Any, instance: Any) -> None:
    """Remove the clone's secret from libvirt unless its flavor keeps it there. Harmless when there is none."""
    if not _stays(instance):
        driver._host.delete_secret("vtpm", instance.uuid)


def of_source(context: Any, server: str, secret: str) -> bytes | None:
    """The passphrase of a server that is about to be frozen; None where libvirt itself has it, readable.

    :param context: the one that ordered the clone, with the tenant's token: Nova's default keeps the secret the tenant's
    :raises PassphraseUnavailable: when the key manager does not give it out
    """
    admin = nova_context.get_admin_context()
    instance = objects.Instance.get_by_uuid(
        admin, server, expected_attrs=["system_metadata", "flavor"]
    )
    if _stays(instance):
        return None
    if instance.system_metadata.get("vtpm_secret_uuid") != secret:
        raise PassphraseUnavailable(f"Nova knows no vTPM secret {secret} of server {server}")
    try:
        _, passphrase = vtpm.get_or_create_secret(context, instance)
    except Exception as error:
        security = vtpm.get_instance_tpm_secret_security(instance.flavor)
        raise PassphraseUnavailable(
            f"the key manager does not give out the vTPM's secret (hw:tpm_secret_security={security}): "
            f"{type(error).__name__}; order the clone anew as a user who may read it"
        ) from error
    return bytes(passphrase)


def _stays(instance: Any) -> bool:
    return bool(vtpm.get_instance_tpm_secret_security(instance.flavor) == "host")
