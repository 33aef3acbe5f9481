"""All that the conductor keeps, in one database."""

from __future__ import annotations

import dataclasses

from nova_trusted_clone.db.clones import Clones
from nova_trusted_clone.db.engine import Database
from nova_trusted_clone.db.freezes import Freezes
from nova_trusted_clone.db.groups import Groups


@dataclasses.dataclass(frozen=True)
class Store:
    """Groups with the claims of their servers, clone records with evidence, freezes with orders."""

    groups: Groups
    clones: Clones
    freezes: Freezes

    @classmethod
    def of(cls, database: Database) -> Store:
        """Return the store of a database."""
        return cls(Groups(database), Clones(database), Freezes(database))
