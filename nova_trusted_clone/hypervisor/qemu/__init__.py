"""QEMU through libvirt.

==============  ========================================================================================================
source          ``QemuSource``: inspect, freeze, release. The whole order of a freeze is in its ``freeze``
sources         what the exporter serves: memory that it takes in place, disks over NBD, files
destination     ``QemuDestination``: restore, settle, pause, destroy
==============  ========================================================================================================

Below these: ``connection`` and ``monitor`` (libvirt, QMP), ``inspect``, ``journal``, ``process`` and ``ramblocks`` (where
memory is), ``diskfreeze``, ``userfault``, ``handover`` and ``capture`` (the frozen memory), ``nbd`` (the frozen disks),
``devicestate``, ``compose``, ``saveimage``, ``definition``, ``memorylinks`` and ``nic`` (the clone).
"""
