"""Xen, through libvirt's libxl driver and, for the one thing that libvirt does not offer, libxenlight itself.

===============  ==================================================================
``source``       the freeze: pre-copy, suspend, hold the disks, resume; and its release
``destination``  the restore from verified regions, and its end
``stream``       reads libxl's and libxc's streams; ``records`` names what is in them
``capture``      keeps what was read: pages, and a ``state`` of all else
``compose``      puts a stream together of both
``saver``        the process that holds libxl's hand while a domain is saved; ``_xl`` is its C part
===============  ==================================================================
"""
