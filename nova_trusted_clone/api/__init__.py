"""The REST API: an action on a server, and the records of its clones, within nova-api.

``router``
    every route on one page; nova's own router with ours beside its own
``trusted_clone``, ``trusted_clones``, ``versions``
    the controllers: the action, the records, and what this API can do
``obstacles``, ``source``, ``networks``
    what stands in the way of cloning a server; what its clones take over; their interfaces
``servers``
    nova's compute API, making servers that are to be clones
``requests``
    a request from its check to its records, with what is taken back when a step fails
``faults``
    every error on one page: its status, and what to do next
``schemas``, ``views``
    what comes in and what goes out

Modules that lean on nova name the module that they lean on.
"""
