"""The lab: two hosts and a running guest on one Debian machine, with real parts only.

Each host is a set of namespaces with its own libvirtd, its own software TPM in the place of a hardware TPM and its own
network stack; a guest is a small kernel with a program that checks its own memory and disks without end.

===============  ==================================================================
``cli``          the commands: up, down, status, demo, test, bench, shell
``lab``          both hosts together: up with its undo, down, what is left
``host``         one host: namespaces, TPM, libvirtd; ``sandbox`` holds the namespaces
``guests``       starting guests; ``domain`` writes their XML, ``console`` reads what they print
``guest/``       the guest's program and how its boot image is made
``display``      what the demo shows, from plain values
===============  ==================================================================

Nothing here is part of the product, and the product imports nothing from here.
"""
