"""The daemons' options, for ``oslo-config-generator``."""

from __future__ import annotations

import copy

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

from nova_trusted_clone.privsep import guest_memory_pctxt, mounts_pctxt

_TITLES = {
    guest_memory_pctxt.cfg_section: "The daemon that opens a guest's memory",
    mounts_pctxt.cfg_section: "The daemon that mounts stores' file systems",
}


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """oslo.privsep's own options with each daemon's capabilities as their default."""
    return [
        (cfg.OptGroup(context.cfg_section, title=_TITLES[context.cfg_section]), _options(context))
        for context in (guest_memory_pctxt, mounts_pctxt)
    ]


def _options(context: priv_context.PrivContext) -> list[cfg.Opt]:
    options: list[cfg.Opt] = copy.deepcopy(priv_context.OPTS)
    for option in options:
        if option.dest == "capabilities":
            held = [capabilities.CAPS_BYVALUE[number] for number in context.conf.capabilities]
            option.default = held
    return options
