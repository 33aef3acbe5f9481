"""Stub: metadata is in pyproject.toml; here stands only the extension module."""
import setuptools

setuptools.setup(pbr=True)
