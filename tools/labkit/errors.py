"""The lab's errors: one root, so that the command line can tell an expected failure from a bug."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot go on; the message says what was found and what to do."""


class CommandFailed(LabError):
    """A program that the lab runs ended with an error."""


class LeftBehind(LabError):
    """``down`` ended and something of the lab is still there."""


class ConsoleTimeout(LabError):
    """A guest did not print in time what was waited for."""


class GuestFailed(LabError):
    """A guest ended, or found its own memory or disk damaged."""


class GuestGone(GuestFailed):
    """A guest ended before it did what was waited for."""
