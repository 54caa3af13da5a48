"""JSON of saved runs, in a format with a version: docs/report-schema.md, report.schema.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..json_file import jsonable
from ..runner import FORMAT, Result
from ..verdict import Check, Verdict, exit_code, overall
from .cells import cells_in, command_of
from .figures import figures, missing_of
from .steps import steps_of

SCHEMA = Path(__file__).parent / "report.schema.json"


def document(results: Sequence[Result]) -> dict[str, Any]:
    """The runs with their checks, figures, cells and steps. The same runs give the same document."""
    verdict = verdict_of(results)
    made = {
        "format": {"name": "tritoncapi-harness-report", "version": FORMAT},
        "verdict": verdict.value,
        "exit_code": int(exit_code(verdict)),
        "runs": [run(result) for result in results],
    }
    plain = jsonable(made)
    assert isinstance(plain, dict)
    return plain


def verdict_of(results: Sequence[Result]) -> Verdict:
    """The verdict over all runs: one that failed fails it, one that is unknown makes it unknown, as checks do."""
    return overall(Check(result.scenario.name, result.verdict, result.sentence) for result in results)


def run(result: Result) -> dict[str, Any]:
    """What ``--json`` of the scenario writes, and what is computed from the history."""
    events = result.run.ended.events
    found: dict[str, Any] = dict(result.as_json())
    found["figures"] = figures(result)
    found["missing"] = missing_of(result.run.samples)
    if cells := cells_in(result):
        found["cells"] = [
            {
                "cell": cell.name,
                "axes": dict(cell.axes),
                "outcome": cell.outcome,
                "expected": cell.expected,
                "evidence": cell.evidence,
                "ms": cell.ms,
                "reproduce": command_of(cell, result.scenario.name),
            }
            for cell in cells
        ]
    if steps := steps_of(events):
        found["steps"] = [
            {
                "name": step.name,
                "fields": dict(step.fields),
                "throughput": step.throughput,
                "percentiles_us": dict(step.percentiles_us),
            }
            for step in steps
        ]
    return found
