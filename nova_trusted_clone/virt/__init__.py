"""The compute driver: Nova's libvirt driver, and a mixin that receives and gives clones.

It holds no logic of cloning: what nova-compute asks becomes calls of the use cases (``clone``), and what the use cases
tell becomes calls of Nova's and of the clone conductor. Modules that lean on Nova name the module that they lean on.

``bootstrap``
    makes ``compute_driver = trusted_clone.LibvirtDriver`` importable
``libvirt_driver``, ``mixin``
    the driver
``service``
    this host's engine: whether it can clone, and why not; started once, stopped once
``endpoint``, ``peers``
    the RPC that other hosts and the conductor speak to this one, and back
``receive``, ``guest``
    ``spawn()`` of a marked server
``protect``
    what else nova-compute does with a source in a freeze, or with a clone that is still fetching
``outbox``, ``follow``
    what the conductor, and Nova's record of the server, must hear in the end
"""
