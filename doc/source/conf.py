"""Sphinx configuration."""

project = "nova-trusted-clone"
copyright = "the nova-trusted-clone developers"
extensions = [
    "openstackdocstheme",
    "oslo_config.sphinxext",
    "oslo_config.sphinxconfiggen",
    "oslo_policy.sphinxext",
]
html_theme = "openstackdocs"
openstackdocs_repo_name = "nova-trusted-clone"
openstackdocs_auto_name = False
openstackdocs_auto_version = False
version = release = ""
config_generator_config_file = "../../etc/nova_trusted_clone/config-generator.conf"
sample_config_basename = "_static/nova_trusted_clone"
nitpicky = False
