"""Live, attested and verified cloning of running servers.

Where things are (imports point down only; tests/unit/test_layers.py holds it):

==================  =========================================================
dashboard           Horizon: clone by a button, watch, read the evidence; needs no nova
cmd                 programs: conductor, manage, status, agent, exporter, store, guard
virt                nova-compute's driver, over Nova's libvirt driver
client              openstack server clone, and the API in Python; needs no nova
tempest_plugin      tests of a whole cloud, for tempest
assembly            which adapters a host's service uses
clone               use cases: ordered steps, each with its undo
conductor           requests gathered into freezes, orders, records, evidence verified
rpc                 messages between nova's services, checked where they arrive
db, objects         the conductor's records, and the values in them
notifications       what nova's listeners are told of a clone
conf                every option, with what it does and why
privsep             the two daemons that have the rights which nobody else needs
transport           framed messages and TLS between hosts
datapath            exporter and store: bulk pages, FUSE, prefetch
tpm, vtpm           TPM 2.0 commands; making, deriving and reading vTPMs
hypervisor          freeze and restore; one package per hypervisor
ports               the protocols between use cases and adapters
core                the thinking: protocol, attest, integrity; no I/O at all
==================  =========================================================
"""
