"""Sphinx configuration of the release notes."""

project = "nova-trusted-clone release notes"
extensions = ["openstackdocstheme", "reno.sphinxext"]
html_theme = "openstackdocs"
openstackdocs_repo_name = "nova-trusted-clone"
openstackdocs_auto_name = False
openstackdocs_auto_version = False
version = release = ""
