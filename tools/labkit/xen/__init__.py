"""The lab's Xen hosts: two machines that QEMU emulates, each with the Xen hypervisor and Debian as its dom0.

===============  ==================================================================
``image``        how a host's disk is made: Debian's packages, the venv, ``dom0``
``dom0``         the first program of a host, which starts what Xen and libvirt need
``machine``      one host: start it, speak to it, end it
``hosts``        both, joined by a cable
``fleet``        both as an operator's: enrolled, learned, with agents
``guests``       starting guests on a host
``commands``     ``tools/lab xen``
===============  ==================================================================

The checkout is a read-only directory of each host (``/project``), so that what is tested is what stands there. A host has no
way out but the cable: its shell is reached at a port of the machine's loopback.
"""
