"""A saved Xen domain: its stream read, kept, and put together again.

===============  ==================================================================
``stream``       reads libxl's and libxc's streams; ``records`` names what is in them
``capture``      keeps what was read: pages, and a ``state`` of all else
``compose``      puts a stream together of both
``saveimage``    the headers that stand before it
===============  ==================================================================
"""
