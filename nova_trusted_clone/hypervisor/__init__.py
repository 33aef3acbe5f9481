"""Freeze a running server and restore its clones.

``base`` is what every hypervisor shares, ``qemu`` is QEMU through libvirt, ``fake`` a hypervisor whose servers are files.
"""
