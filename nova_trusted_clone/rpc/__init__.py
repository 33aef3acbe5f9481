"""Messages between nova's services for clones, over oslo.messaging.

==========================  =======================================  =============================
topic                       who answers                              client
==========================  =======================================  =============================
``trusted_clone``           every nova-compute, by its host name     ``compute.ComputeAPI``
``trusted_clone_conductor`` nova-trusted-clone-conductor, any of it  ``conductor.ConductorAPI``
==========================  =======================================  =============================

The broker is not trusted. Nothing that comes this way is believed for having come: an order is signed, a handshake
message proves itself, evidence is verified by the conductor. What a forged message can do is to disturb or end a clone.
So each argument and each result is checked where it arrives (``checks``), errors travel as data in the reply and never as
a class that the sender names (``errors``), and a reply that does not come becomes ``Unavailable``.

Versions: both are at 1.0. An argument or method that is added raises the minor number, and clients send it only where
``version_cap`` allows; whatever would change the meaning of a message raises the major one.
"""

COMPUTE_TOPIC = "trusted_clone"
CONDUCTOR_TOPIC = "trusted_clone_conductor"
VERSION = "1.0"
