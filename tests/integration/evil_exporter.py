"""An exporter that changes what it sends after it was signed, or takes its time: what a test wished, else honest.

The wish is a JSON file: ``fault`` (a name below), ``kind`` and ``name`` of the region (any, when left out), ``after`` (that
many honest replies with pages of that region first), ``seconds`` (for ``slow``: what each reply takes longer).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nova_trusted_clone.cmd import exporter as program
from nova_trusted_clone.datapath.bulk import SegmentReply
from nova_trusted_clone.datapath.exporter import Exporter
from nova_trusted_clone.datapath.filters import fault
from nova_trusted_clone.datapath.sources import SegmentSource

WISHES = "TESTS_WISHES"
Wish = dict[str, Any]


FAULTS: dict[str, Callable[[Wish, Ed25519PrivateKey], fault.Fault]] = {
    "flip": lambda _wish, _key: fault.flip,
    "swap": lambda _wish, _key: fault.swap,
    "truncate": lambda _wish, _key: fault.truncate,
    "flip-signature": lambda _wish, _key: fault.flip_signature,
    "move": lambda _wish, _key: fault.Move(),
    "replay": lambda _wish, key: fault.replay(key, bytes(16)),
    "stale": lambda _wish, key: fault.stale(key, 7),
    "forge": lambda _wish, _key: fault.forge(),
    "slow": lambda wish, _key: fault.stall(float(wish["seconds"])),
}


class EvilExporter(Exporter):
    """Knows which region is which, so that a fault strikes where it was wished."""

    def __init__(
        self, freeze_id: bytes, page_key: Ed25519PrivateKey, directory: pathlib.Path, wish: Wish
    ) -> None:
        super().__init__(freeze_id, page_key, directory, reply_filter=self._strike)
        self._wish = wish
        self._fault = FAULTS[wish["fault"]](wish, page_key)
        self._struck: set[int] = set()
        self._honest = int(wish.get("after", 0))

    def publish(self, sources: Iterable[SegmentSource]) -> None:
        """Note the regions' ids."""
        frozen = list(sources)
        wanted = {name: self._wish[name] for name in ("kind", "name") if name in self._wish}
        self._struck = {
            source.region.id
            for source in frozen
            if wanted.items() <= {"kind": source.region.kind, "name": source.region.name}.items()
        }
        assert self._struck, f"there is no region {wanted}"
        super().publish(frozen)

    def _strike(self, reply: SegmentReply) -> SegmentReply:
        if reply.region not in self._struck or len(reply.data) < 8192:
            return reply
        if self._honest > 0:
            self._honest -= 1
            return reply
        return self._fault(reply)


def main() -> int:
    """Run an exporter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    directory = parser.parse_args().directory
    wish = json.loads(pathlib.Path(os.environ[WISHES]).read_text()).get("exporter")
    if wish is None:
        return program.run(directory)
    return program.run(directory, lambda freeze, key, place: EvilExporter(freeze, key, place, wish))


if __name__ == "__main__":
    sys.exit(main())
