"""The client by which the tests speak to the API."""

from nova_trusted_clone.tempest_plugin.services.trusted_clone_client import TrustedCloneClient

__all__ = ["TrustedCloneClient"]
