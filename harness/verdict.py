"""Verdicts, the checks they come from, and the exit codes they turn into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum, IntEnum
from typing import Any


class Verdict(str, Enum):
    """What a check, or a run, says."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


class ExitCode(IntEnum):
    """Exit codes of every command."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    UNKNOWN = 3
    LACKS = 4


@dataclass(frozen=True)
class Check:
    """One finding: a verdict, one sentence that says why, and the figures behind it."""

    name: str
    verdict: Verdict
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The check as plain data."""
        return {**asdict(self), "verdict": self.verdict.value, "evidence": dict(self.evidence)}


def passed(name: str, sentence: str, **evidence: Any) -> Check:
    """A check that passed."""
    return Check(name, Verdict.PASS, sentence, evidence)


def failed(name: str, sentence: str, **evidence: Any) -> Check:
    """A check that failed."""
    return Check(name, Verdict.FAIL, sentence, evidence)


def unknown(name: str, sentence: str, **evidence: Any) -> Check:
    """A check that could not be made."""
    return Check(name, Verdict.UNKNOWN, sentence, evidence)


def skipped(name: str, reason: str, **evidence: Any) -> Check:
    """A check that does not apply."""
    return Check(name, Verdict.SKIPPED, reason, evidence)


def overall(checks: Iterable[Check]) -> Verdict:
    """Fail if anything failed, unknown if anything is unknown or nothing passed, else pass."""
    verdicts = {check.verdict for check in checks}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if Verdict.UNKNOWN in verdicts or Verdict.PASS not in verdicts:
        return Verdict.UNKNOWN
    return Verdict.PASS


def exit_code(verdict: Verdict) -> ExitCode:
    """The exit code of a run that ended with this verdict."""
    return {Verdict.PASS: ExitCode.PASS, Verdict.FAIL: ExitCode.FAIL}.get(verdict, ExitCode.UNKNOWN)
