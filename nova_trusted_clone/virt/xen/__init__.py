"""Nova's libvirt driver for Xen: Nova 34 knows libvirt's libxl driver no longer, and this is what it lacks.

``driver``
    ``compute_driver = trusted_clone.XenLibvirtDriver``
``definition``
    the guest XML that Nova makes for a hypervisor it does not know, turned into one that libxl runs; pure
``names``
    Xen's own bus, device names and network card model, in the tables of Nova that refuse what is not in them
``host``, ``domain``
    Nova's two wrappers around libvirt, where libxl's driver answers otherwise or not at all
``vtpms``
    the vTPM that the host keeps for a server, which cannot carry one itself
"""
