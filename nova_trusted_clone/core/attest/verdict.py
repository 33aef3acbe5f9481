"""Verdicts: every check that was made, not only the first that failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from nova_trusted_clone.core import errors


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    :ivar code: a stable public name, such as ``trusted-clone.quote.stale``
    :ivar found: what was found, for people; never a secret
    :ivar expected: what was expected, for people
    """

    code: str
    ok: bool
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.code}: found {self.found}, expected {self.expected}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The checks in the order in which they were made."""

    checks: tuple[Check, ...] = ()

    @classmethod
    def of(cls, code: str, ok: bool, found: object, expected: object) -> Verdict:
        """Return a verdict of one check; bytes are shown in hexadecimal."""
        return cls((Check(code, bool(ok), show(found), show(expected)),))

    @classmethod
    def equal(cls, code: str, found: object, expected: object) -> Verdict:
        """Return a verdict of one check: that ``found`` is ``expected``."""
        return cls.of(code, type(found) is type(expected) and found == expected, found, expected)

    @classmethod
    def malformed(cls, error: errors.CoreError) -> Verdict:
        """Return the failed verdict for input that could not be read."""
        return cls.of(error.code, False, str(error), "well-formed input")

    @classmethod
    def joined(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Return one verdict of the checks of all, in order."""
        return cls(tuple(check for verdict in verdicts for check in verdict.checks))

    @property
    def ok(self) -> bool:
        """Whether something was checked and all of it held: no check at all is no trust."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not hold."""
        return tuple(check for check in self.checks if not check.ok)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.checks + other.checks)

    def __str__(self) -> str:
        """The failures, for people."""
        if self.ok:
            return f"{len(self.checks)} checks hold"
        return "; ".join(map(str, self.failures)) or "nothing was checked"

    def require(self) -> None:
        """Raise :class:`errors.Refused` unless ``ok``."""
        if not self.ok:
            raise errors.Refused(self)

    def to_json(self) -> dict[str, object]:
        """Return a JSON-able form."""
        return {"ok": self.ok, "checks": [dataclasses.asdict(check) for check in self.checks]}


def show(value: object) -> str:
    """Return ``value`` for people; bytes in hexadecimal, long ones cut."""
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 64 else f"{value[:32].hex()}… ({len(value)} bytes)"
    return str(value)
