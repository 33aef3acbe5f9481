"""What makes the cloud's Nova clone: hosts that are enrolled, the driver and the API of this project, its conductor."""

from __future__ import annotations

import pathlib
import shutil

from labkit.cloud import database, ini, nova, rights, settings
from labkit.cloud.nodes import Compute, Control
from labkit.cloud.service import Service
from labkit.host import Host
from labkit.lab import Lab
from labkit.operator import Operator
from labkit.swtpm_config import LocalAuthority

DRIVER = "trusted_clone.LibvirtDriver"
# A host that receives clones (``nova_trusted_clone.virt.mixin.TRAIT``, which is not imported here for its sake).
TRAIT = "CUSTOM_TRUSTED_CLONE"
ROUTER = "nova_trusted_clone.api.router:APIRouterV21.factory"
DATABASE = "trusted_clone"
PUBLISHED = "published"
# A host that went away is given up soon, as tests wait for it; not before a broker that is started anew has everybody back.
LIMITS = {"message_timeout_s": 10, "network_limit_s": 40}


def enrol(lab: Lab) -> Operator:
    """Make the operator's authority, certify both hosts, and take what they booted as good."""
    operator = Operator(lab)
    for host in lab.hosts:
        operator.enrol(host)
        operator.learn(host)
        if host.installed:
            hand_over(host)
    _publish(operator)
    return operator


def hand_over(host: Host) -> None:
    """Give what enrolment made, as root, to those who use it: nova, and swtpm the key that certifies guests' vTPMs."""
    rights.give(rights.NOVA_ID, host.identity)
    seen, own = pathlib.Path("/var/lib/swtpm-localca"), host.base / "swtpm-localca"
    made = []
    for name, mode in (("vtpm-ca.key", 0o400), ("vtpm-ca.pem", 0o444)):
        copy = own / f"trusted-clone-{name}"
        shutil.copyfile(host.identity / name, copy)
        shutil.chown(copy, rights.TPM)
        copy.chmod(mode)
        made.append(seen / copy.name)
    key, certificate = made
    LocalAuthority(key, certificate, seen).write(
        host.base, platform=host.name, visible_at=pathlib.Path("/etc")
    )


def _publish(operator: Operator) -> None:
    """Lay what every host and tenant may read beside what only the authority may; a later change shows in both."""
    place = operator.policy.parent.with_name(PUBLISHED)
    place.mkdir()
    for path in (operator.anchors, operator.policy):
        path.chmod(0o644)
        (place / path.name).hardlink_to(path)


def _operator_files(lab_hosts: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """The operator's directory, the roots, the policy."""
    place = lab_hosts / "operator"
    return place, place / "anchors.pem", place / "policy.json"


def compute_options(host: Compute) -> ini.Sections:
    """For nova-compute: our driver, and who the host is."""
    place = host.paths.hosts / PUBLISHED
    anchors, policy = place / "anchors.pem", place / "policy.json"
    return {
        "DEFAULT": {"compute_driver": DRIVER},
        "trusted_clone": {
            "host_id": host.name,
            "identity_path": host.identity,
            "anchors_file": anchors,
            "policy_file": policy,
            "tpm": host.tpm,
            "event_log": host.event_log,
            "state_path": host.state_path,
            "libvirt_uri": host.uri,
            "memory_backing_dir": host.memory_backing_dir,
            "listen_address": host.address,
            **LIMITS,
        },
    }


def control_options(control: Control) -> ini.Sections:
    """For nova.conf of the control node: where clones are recorded, what signs orders, what evidence is checked against."""
    place, anchors, policy = _operator_files(control.paths.hosts)
    return {
        "trusted_clone_database": {
            "connection": settings.database_url(DATABASE),
            "max_pool_size": 8,
        },
        "trusted_clone_conductor": {
            "signer_path": place,
            "anchors_file": anchors,
            "policy_file": policy,
            "workers": 1,
        },
    }


def make_database(control: Control) -> None:
    """Its tables."""
    manage = settings.BIN / "nova-trusted-clone-manage"
    database.fill(control, [(manage, *nova.config_file(control), "db", "sync")])


def conductor(control: Control) -> Service:
    """The conductor of clones."""
    program = settings.BIN / "nova-trusted-clone-conductor"
    return Service("trusted-clone-conductor", control, (program, *nova.config_file(control)))
