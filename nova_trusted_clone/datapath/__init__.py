"""Bulk pages from a source host to its clones: what leaves is signed, what arrives is verified.

==========  ====================================================================
errors      what this layer raises
bulk        the frames inside TLS
sources     where an exporter finds frozen bytes (the contract; a file; a fake)
book        the exporter's manifests and root
serving     one store's connection at the exporter
exporter    who is admitted, what is served, the background signer
prefetch    what the store fetches next
cache       one region's verified bytes and bitmap
staging     disks copied before the freeze
verified    the gate: all regions, who waits, what failed
fetcher     the store's lines to the exporter
store       the store as a whole
tree, fuse  its mount
mounts      mounts found and taken off after a kill
control     the control socket of helper processes
processes   helper processes that outlive their service
filters     rates; faults for tests
==========  ====================================================================
"""
