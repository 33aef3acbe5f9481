"""A Xen domain: saved while it runs, its stream read, kept, and put together again.

===============  ==================================================================
``stream``       reads libxl's and libxc's streams; ``records`` names what is in them
``capture``      keeps what was read: pages, and a ``state`` of all else
``compose``      puts a stream together of both
``saveimage``    the headers that stand before it
``saver``        the process that holds libxl's hand while a domain is saved; ``_xl`` is its C part
``saving``       that process as its caller holds it
``cpupolicy``    whether a host's processors can run what was saved
``vtpms``        the vTPMs that a host keeps for its domains
===============  ==================================================================
"""
