"""A real OpenStack in the lab: three nodes on one Debian machine, every part the released one.

The control node runs MariaDB, RabbitMQ, memcached, Keystone, Placement, Glance, Barbican, Neutron with its DHCP agent, Nova's
API, scheduler and conductor, and the conductor of trusted clones. ``host-a`` and ``host-b`` are hosts of the lab (labkit.host:
own libvirtd, own software TPM, measured boot) with Open vSwitch and nova-compute. Nothing listens outside of their namespaces.

================  =================================================================================
``cloud``         all of it: up, down, status; ``steps`` does what can be done at one time
``nodes``         the three nodes; ``network`` lays the cables
``settings``      addresses, ports, names; ``ini`` writes configuration files
``service``       a program that stays: start, wait, end; ``catalog`` has every one by its name
``database`` ...  one file for each part of OpenStack: its configuration, its programs, how its database is made
``trusted``       what makes nova this project's: enrolment, options, the conductor
``identity``      users and endpoints; ``resources`` the image, flavors and networks
``commands``      ``tools/lab cloud``; ``demo`` is ``tools/lab demo``
================  =================================================================================
"""
