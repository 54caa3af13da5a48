"""Why a run did not begin: the caller's mistake, or the machine's lack."""

from __future__ import annotations


class UsageError(Exception):
    """Bad input; the text says in one line what, where, and what to do. Exit code 2."""


class LacksError(Exception):
    """The machine lacks what the run needs; the text says what in one line. Exit code 4."""
