"""Where the lab keeps what it makes. Everything is below one directory, but for the unix sockets."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class LabPaths:
    """The places of one lab.

    :ivar root: the lab's directory, ``.lab`` of the checkout unless ``LAB_DIR`` names another; two labs with two
        directories can be up at one time
    :ivar cache: what is costly to make and the same for every lab: the guest's kernel and boot image
    """

    root: pathlib.Path
    cache: pathlib.Path

    @classmethod
    def from_environment(cls) -> LabPaths:
        """The lab named by ``LAB_DIR`` and ``LAB_CACHE``, by default ``.lab`` and ``.lab/cache`` of the checkout."""
        default = CHECKOUT / ".lab"
        return cls(
            root=pathlib.Path(os.environ.get("LAB_DIR") or default).resolve(),
            cache=pathlib.Path(os.environ.get("LAB_CACHE") or default / "cache").resolve(),
        )

    @property
    def lab_id(self) -> str:
        """Eight hex digits that tell this lab from others on the machine."""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:8]

    @property
    def run(self) -> pathlib.Path:
        """For sockets: their paths end at 108 bytes (unix(7)), and a checkout may lie deep."""
        return pathlib.Path(f"/run/ntc-{self.lab_id}")

    @property
    def log(self) -> pathlib.Path:
        """Kept by ``down``."""
        return self.root / "log"

    @property
    def hosts(self) -> pathlib.Path:
        """One directory a host."""
        return self.root / "hosts"

    @property
    def vendor_ca(self) -> pathlib.Path:
        """The CA of the maker of the lab's TPMs, which certifies both hosts' endorsement keys."""
        return self.root / "tpm-vendor"
