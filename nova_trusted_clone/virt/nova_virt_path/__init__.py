"""A directory that ``bootstrap`` appends to ``nova.virt.__path__``; nothing imports it by this name."""
