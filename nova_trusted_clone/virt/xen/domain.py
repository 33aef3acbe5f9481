"""Nova's view of one guest: devices are attached and detached as libxl knows them.

Leans on ``nova.virt.libvirt.guest.Guest``.
"""

from __future__ import annotations

from typing import Any

from nova import exception
from nova.virt.libvirt import guest

from nova_trusted_clone.virt.xen import definition


class _Translated:
    """A device's configuration whose XML is Xen's; everything else is Nova's own."""

    def __init__(self, config: Any, kind: definition.Kind) -> None:
        self._config = config
        self._kind = kind

    def to_xml(self, **kwargs: Any) -> str:
        """The device for libxl's driver.

        :raises UnsupportedHardware: a Xen guest has none such
        """
        try:
            return definition.of_device(self._config.to_xml(**kwargs), self._kind)
        except definition.Unfit as error:
            raise exception.UnsupportedHardware(model=str(error), virt="xen") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


class XenGuest(guest.Guest):  # type: ignore[misc]
    """A guest of libxl's driver."""

    def attach_device(self, conf: Any, persistent: bool = False, live: bool = False) -> None:
        """As Nova's, with the device as Xen has it."""
        super().attach_device(self._translated(conf), persistent=persistent, live=live)

    def detach_device(self, conf: Any, persistent: bool = False, live: bool = False) -> None:
        """As Nova's, with the device as Xen has it."""
        super().detach_device(self._translated(conf), persistent=persistent, live=live)

    def _translated(self, conf: Any) -> _Translated:
        return _Translated(conf, definition.kind_of(self.get_xml_desc()))
