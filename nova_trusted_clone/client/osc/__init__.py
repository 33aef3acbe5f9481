"""``openstack server clone …``: the commands, thin over ``client``'s own modules."""
