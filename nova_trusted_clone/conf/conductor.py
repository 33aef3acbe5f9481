"""Options of the conductor, group ``[trusted_clone_conductor]``, and of its database, group
``[trusted_clone_database]``.

They stand in nova.conf of the controllers. The database options are oslo.db's own.
"""

from __future__ import annotations

from oslo_config import cfg

GROUP = cfg.OptGroup(
    "trusted_clone_conductor",
    title="The conductor of trusted clones",
    help="Orders clones, keeps their records, and verifies their evidence.",
)
DATABASE_GROUP = cfg.OptGroup(
    "trusted_clone_database",
    title="The database of clone records",
    help="Clone records, lineage and evidence; a database of its own beside nova's. Only the conductor needs it.",
)

SIGNING = (
    cfg.StrOpt(
        "signer_path",
        default="/etc/nova-trusted-clone/signer",
        help="Directory with what signs orders: control.key and control.pem (the signer's key and certificate) and "
        "hosts.json (the register of enrolled hosts). Copy them from the authority's directory, and hosts.json "
        "again after each enrolment: it is read anew for each order. Whoever has the key can order clones: mode "
        "0700, of the service's user.",
    ),
    cfg.StrOpt(
        "anchors_file",
        default="/etc/nova-trusted-clone/anchors.pem",
        help="PEM bundle of the operator's roots, the same as on the hosts. Evidence is verified against it before "
        "a clone is recorded as complete.",
    ),
    cfg.StrOpt(
        "policy_file",
        default="/etc/nova-trusted-clone/policy.json",
        help="The policy that orders name by its digest: the same bytes as on the hosts, or they refuse the order. "
        "Read anew for each freeze; each version that an order named is kept in the database, so that old evidence "
        "can be verified.",
    ),
    cfg.IntOpt(
        "order_lifetime_s",
        default=600,
        min=30,
        max=86400,
        help="Seconds for which an order is in force, counted from its signature; the policy's max_order_seconds "
        "bounds it further. A host does not begin a clone whose order has expired.",
    ),
)

GATHERING = (
    cfg.FloatOpt(
        "gather_limit_s",
        default=15,
        min=0,
        max=600,
        help="How long the conductor waits, after the first server of a request has a host, for the other servers "
        "of that request, so that all are made from one freeze of the source. What comes later gets a freeze of its "
        "own. With one server, or when all have a host, nothing is waited for.",
    ),
    cfg.IntOpt(
        "ordering_threads",
        default=8,
        min=1,
        max=64,
        help="Freezes that one worker orders at one time, and destinations of one freeze that are told at one time.",
    ),
)

STALENESS = (
    cfg.FloatOpt(
        "stale_check_s",
        default=10,
        min=0.2,
        max=3600,
        help="How often records that are not at their end are looked at: for work that a killed conductor left "
        "behind, servers that nova gave up or deleted, and hosts that fell silent.",
    ),
    cfg.FloatOpt(
        "silence_s",
        default=45,
        min=1,
        max=86400,
        help="A host that has reported nothing of a clone for so long is asked for it. If it knows nothing of the "
        "clone, the record ends.",
    ),
    cfg.FloatOpt(
        "stale_limit_s",
        default=600,
        min=5,
        max=604800,
        help="A record of which nothing was heard for so long, and whose host does not answer, ends as failed; one "
        "that waits for a host or an order ends after the same time.",
    ),
    cfg.FloatOpt(
        "lease_s",
        default=60,
        min=2,
        max=3600,
        help="How long the ordering of a freeze belongs to the worker that began it, from the last step that it "
        "made. After that another worker takes it up where it was left. What a restarted service left itself is "
        "taken up at once.",
    ),
    cfg.IntOpt(
        "retry_limit_s",
        default=60,
        min=0,
        max=3600,
        help="How long a call to a host, and a transaction of the database, is repeated while the broker, the host "
        "or the database does not answer. Both are made such that a repetition changes nothing.",
    ),
)

SERVICE = (
    cfg.IntOpt(
        "workers",
        min=1,
        max=64,
        default=2,
        help="Processes of the service on this machine. Any number of machines may run the service: they share the "
        "work by the database.",
    ),
)

ALL = SIGNING + GATHERING + STALENESS + SERVICE


def database_options() -> list[cfg.Opt]:
    """Return oslo.db's options; imported only where a database is used."""
    from oslo_db import options

    return list(options.database_opts)


def register(conf: cfg.ConfigOpts) -> None:
    """Register the options of both groups with ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(ALL, group=GROUP)
    conf.register_group(DATABASE_GROUP)
    conf.register_opts(database_options(), group=DATABASE_GROUP)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """For ``oslo-config-generator``."""
    return [(GROUP, list(ALL)), (DATABASE_GROUP, database_options())]
