"""What is signed about a frozen server's bytes, and how each byte is checked against it.

leaf      SHA-256 of 4 KiB leaves, a whole segment in one call
segment   the signed list of a 1 MiB segment's leaves
manifest  all regions of a freeze: the root that the final quotes cover
bitmap    which leaves are there
"""
