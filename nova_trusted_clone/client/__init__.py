"""What a tenant has on a laptop: the REST API in Python, ``openstack server clone`` and ``nova clone``.

It needs no nova: of this package only ``core``, and beside it what the extra ``client`` names. Every
reply is untrusted: it is limited in size, each field is checked, and what it says about a clone is
proved by the evidence alone, which is judged here and offline.

.. code-block:: python

    import openstack
    from nova_trusted_clone.client.rest import TrustedClones
    from nova_trusted_clone.client.values import CloneRequest

    clones = TrustedClones(openstack.connect(cloud="mycloud").compute)
    created = clones.create(source.id, CloneRequest(name="web", count=2, nonce=os.urandom(16)))

==============  ====================================================================
errors          what goes wrong, and what of it may be tried again
values          requests and records, typed
replies         untrusted JSON into values, each complaint with its field
rest            the five requests, over a keystoneauth adapter
waiting         until clones have ended, over expired tokens and restarts of the API
proof           evidence judged offline
display         progress on a terminal, or as lines
osc             the commands of ``openstack``
novaclient_ext  the commands and the Python API of python-novaclient
==============  ====================================================================
"""
