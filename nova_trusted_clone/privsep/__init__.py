"""What a service that is not root has done for it, by two daemons with the least capabilities.

    guest_memory    CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SYS_NICE
                    opens a QEMU's memory; takes a userfaultfd with which that is protected; makes huge pages whole
    mounts          CAP_SYS_ADMIN
                    mounts a store's file system and takes it off

Both hand over open descriptors, and no more is needed: exporter, store and guard run as the service's own user without any
capability. Neither daemon can do what the other does. Each judges what it is asked for (``guest_memory`` opens a QEMU and
nothing else, ``mounts`` mounts on a directory of the asker's and nowhere else), so that who takes over a service gains
little by them.

oslo.privsep starts the daemons, through ``sudo nova-rootwrap`` as it does Nova's own: whoever can run Nova's can run these.
"""

from oslo_privsep import capabilities, priv_context

PREFIX = "nova_trusted_clone.privsep"
GUEST_MEMORY_GROUP = "trusted_clone_guest_memory"
MOUNTS_GROUP = "trusted_clone_mounts"

guest_memory_pctxt = priv_context.PrivContext(
    PREFIX,
    cfg_section=GUEST_MEMORY_GROUP,
    pypath=f"{PREFIX}.guest_memory_pctxt",
    capabilities=[
        capabilities.CAP_SYS_PTRACE,
        capabilities.CAP_DAC_READ_SEARCH,
        capabilities.CAP_SYS_NICE,
    ],
)

mounts_pctxt = priv_context.PrivContext(
    PREFIX,
    cfg_section=MOUNTS_GROUP,
    pypath=f"{PREFIX}.mounts_pctxt",
    capabilities=[capabilities.CAP_SYS_ADMIN],
)
