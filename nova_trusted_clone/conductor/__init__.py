"""The conductor: opens requests, gathers hosts' claims into freezes, signs orders, keeps records, verifies evidence.

===========  ==============================================================
phases       every phase of a record and what leads to what: one table
gather       which claims make a freeze, and when: no clock, no I/O
records      moves of records by the table, safe among many workers
claims       requests, their servers, and the hosts that claim them
ordering     one freeze from its claims to the source's start
signing      orders, from the operator's signing key
evidence     verification before a clone counts as complete
stale        what was left behind: found, taken up again, or ended
servers      what nova says of a server
contexts     tenants' tokens, in memory only
service      the above put together behind RPC
===========  ==============================================================

Every step first stands in the database and then happens, and each may happen twice. So a worker can be killed at
any time, and any other goes on.
"""
