"""Files for Horizon's directory ``openstack_dashboard/local/enabled``; a deployer links or copies them there."""
