"""Every option of a host, group ``[trusted_clone]``.

A surface registers them with ``register``; the sample file comes from ``oslo-config-generator`` through ``list_opts``.
"""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from nova_trusted_clone.conf import conductor

GROUP = cfg.OptGroup(
    "trusted_clone", title="Trusted clones", help="Live, attested cloning of running servers."
)

IDENTITY = (
    cfg.StrOpt(
        "host_id",
        help="Name of this host in orders, certificates and the policy file: lower-case letters, digits, dots and dashes. "
        "It must be the name under which the host was enrolled.",
    ),
    cfg.StrOpt(
        "identity_path",
        default="/etc/nova-trusted-clone/identity",
        help="Directory that enrolment filled: the AK certificate chain and the host's vTPM CA. Private to the service.",
    ),
    cfg.StrOpt(
        "anchors_file",
        default="/etc/nova-trusted-clone/anchors.pem",
        help="PEM bundle of the operator's roots. The role of each root (attestation, vTPM, control plane) is told by its "
        "extended key usage, so that a certificate is only ever trusted in its own role.",
    ),
    cfg.StrOpt(
        "policy_file",
        default="/etc/nova-trusted-clone/policy.json",
        help="PCR reference values by host class, and what may be cloned. Read anew for each clone: no restart is needed.",
    ),
    cfg.StrOpt(
        "tpm",
        default="device:/dev/tpmrm0",
        help="The host's TPM 2.0: device:PATH, or swtpm:PATH for a software TPM's unix data socket (tests only: a software "
        "TPM proves nothing about hardware).",
    ),
    cfg.StrOpt(
        "event_log",
        default="/sys/kernel/security/tpm0/binary_bios_measurements",
        help="The measured-boot log in TCG format. PCR 0-7 must follow from it; PCR 1-7 are inherited by clones from it.",
    ),
)

PLACES = (
    cfg.StrOpt(
        "state_path",
        default="/var/lib/nova-trusted-clone",
        help="Where clones and freezes in progress are kept, so that a restarted service finds them again. It holds the "
        "captured memory of source servers until their clones are complete: give it room for their RAM, and keep it private.",
    ),
    cfg.StrOpt(
        "libvirt_uri",
        default="qemu:///system",
        help="The hypervisor's libvirt connection; with xen:///system its servers are Xen domains (experimental).",
    ),
    cfg.StrOpt(
        "memory_backing_dir",
        default="/var/lib/libvirt/qemu/ram",
        help="memory_backing_dir of libvirt's qemu.conf. A clone's RAM file is found below it.",
    ),
)

NETWORK = (
    cfg.StrOpt(
        "listen_address",
        default="127.0.0.1",
        help="Address on which other hosts reach this one, for both ports.",
    ),
    cfg.PortOpt("peer_port", default=8790, help="Port for the handshake messages of other hosts."),
    cfg.PortOpt(
        "bulk_port_min",
        default=49300,
        help="First of the ports on which exporters serve pages to the stores of other hosts; one port for each freeze.",
    ),
    cfg.PortOpt(
        "bulk_port_max",
        default=49363,
        help="Last of the exporters' ports; it bounds the freezes at one time.",
    ),
    cfg.IntOpt(
        "message_timeout_s",
        default=30,
        min=1,
        help="How long a host waits for the other's answer to one handshake message.",
    ),
    cfg.IntOpt(
        "network_limit_s",
        default=60,
        min=1,
        help="How long a transfer goes on without any answer from the other host before the clone ends with that reason. "
        "Until then the clone waits and goes on where it was.",
    ),
)

LIMITS = (
    cfg.IntOpt(
        "vtpm_pool_size",
        default=1,
        min=0,
        max=32,
        help="vTPMs kept manufactured, so that no clone waits for one.",
    ),
    cfg.IntOpt(
        "max_clones",
        default=8,
        min=1,
        help="Clones that this host receives at one time; one more is refused.",
    ),
    cfg.IntOpt(
        "early_disk_limit_s",
        default=0,
        min=0,
        help="How long disks are copied before the freeze, for stores that shall have most of a disk when the clone starts. "
        "What the source writes meanwhile is copied again. 0 freezes at once and fetches the disk afterwards.",
    ),
    cfg.IntOpt(
        "completion_limit_s",
        default=3600,
        min=10,
        help="How long one clone may take from its order to its receipt.",
    ),
)

NOVA = (
    cfg.IntOpt(
        "order_limit_s",
        default=120,
        min=10,
        help="How long nova-compute, chosen for a clone, waits for the conductor's order before the server goes to ERROR. "
        "Longer than the conductor's gather_limit_s.",
    ),
    cfg.IntOpt(
        "protect_limit_s",
        default=45,
        min=0,
        help="How long a stop, a reboot, a pause, a migration, a snapshot, a rebuild or the deletion of a server waits for "
        "the clones that are being made of it, or for it to be complete when it is a clone itself. Then clones of a source "
        "end, with that reason; operations on a clone are refused and can be repeated. Keep it below rpc_response_timeout.",
    ),
)

XEN = (
    cfg.StrOpt(
        "xen_console_log_dir",
        default="/var/log/xen/console",
        help="Where xenconsoled writes what PVH and PV guests print (guest-NAME.log), when it runs with --log=guest. Read for "
        "'openstack console log show'. Only with trusted_clone.XenLibvirtDriver.",
    ),
    cfg.StrOpt(
        "xen_tsc_mode",
        default="default",
        choices=[
            ("default", "Xen decides: native where host and guest agree on its speed"),
            ("native", "a guest reads the processor's time stamp counter"),
            ("emulate", "Xen answers each read; slower, and the same on every host"),
        ],
        help="How guests that Nova starts read the time stamp counter (xen-tscmode(7)). A clone has its source's mode. Only "
        "with trusted_clone.XenLibvirtDriver.",
    ),
)

PRIVILEGES = (
    cfg.StrOpt(
        "privileged_access",
        default="auto",
        choices=[
            ("auto", "direct where the service is root, otherwise privsep"),
            ("direct", "the service itself, which is root or has the capabilities"),
            (
                "privsep",
                "two daemons started through oslo.privsep, with these capabilities and no others",
            ),
        ],
        help="Who opens a guest's memory (CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SYS_NICE) and mounts a store's file "
        "system (CAP_SYS_ADMIN). nova-compute runs as a user that may do neither. The daemons' own options are in "
        "[trusted_clone_guest_memory] and [trusted_clone_mounts].",
    ),
)

ALL = IDENTITY + PLACES + NETWORK + LIMITS + NOVA + XEN + PRIVILEGES


def register(conf: cfg.ConfigOpts) -> None:
    """Register every option with ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(ALL, group=GROUP)


def list_opts() -> list[tuple[Any, Any]]:
    """For ``oslo-config-generator``: this group, and the conductor's."""
    return [(GROUP.name, ALL), *conductor.list_opts()]
