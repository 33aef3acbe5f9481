"""What a clone is judged by, roots and policy, as they were when it began.

The operator's files are read anew for each clone. A clone that is under way keeps the ones that it began with, over a restart
too: its order names the policy's hash, and a change in the middle must neither end nor widen it.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from nova_trusted_clone.clone import private_files
from nova_trusted_clone.clone.records import RecordError
from nova_trusted_clone.core.attest.certchain import TrustAnchors
from nova_trusted_clone.core.attest.policy import Policy
from nova_trusted_clone.core.errors import CoreError

ANCHORS = "anchors.pem"
POLICY = "policy.json"


@dataclasses.dataclass(frozen=True)
class Ground:
    """The bytes of the two files.

    :raises MalformedInput: from ``anchors`` and ``policy``, when a file is not what it should be
    """

    raw_anchors: bytes
    raw_policy: bytes

    @functools.cached_property
    def anchors(self) -> TrustAnchors:
        """The operator's roots."""
        return TrustAnchors.from_pem(self.raw_anchors)

    @functools.cached_property
    def policy(self) -> Policy:
        """Reference values, and what may be cloned."""
        return Policy.parse(self.raw_policy)

    def save(self, directory: pathlib.Path) -> None:
        """Keep both in a clone's directory."""
        private_files.write(directory / ANCHORS, self.raw_anchors)
        private_files.write(directory / POLICY, self.raw_policy)

    @classmethod
    def load(cls, directory: pathlib.Path) -> Ground:
        """Read what ``save`` kept.

        :raises RecordError: naming the file
        """
        try:
            ground = cls((directory / ANCHORS).read_bytes(), (directory / POLICY).read_bytes())
            # Parsed here, so that damage is told as damage of this directory.
            _ = ground.anchors, ground.policy
        except (OSError, CoreError) as error:
            raise RecordError(f"{directory}: {error}") from error
        return ground
