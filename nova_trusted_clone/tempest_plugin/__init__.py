"""Trusted clones for tempest: a plugin that finds, configures and runs what is below ``tests``."""
