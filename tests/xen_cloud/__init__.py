"""Stories in a cloud whose compute hosts are Xen hosts."""
