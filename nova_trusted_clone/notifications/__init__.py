"""Versioned notifications: ``trusted_clone.create.start``, ``.end``, ``.error``, beside nova's own for the clone's
server.

They go the way that nova's go (``[notifications]`` in nova.conf), with a publisher of nova's kinds, and are registered
with nova's objects so that a consumer reads them as any other. Samples stand in doc/notification_samples.

Leans on nova.notifications.objects.base.
"""
