"""perf: how fast does a model answer, through the C API, HTTP or gRPC, and is it slower than it was?

Each point (a concurrency, or a rate) is a step: warm-up, then a load that runs itself until the last three windows
agree, or for a number of requests or seconds. What was measured is a line of the journal at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from harness.cases import Case
from harness.endings import leftovers_check, process_check
from harness.load import InTurn
from harness.scenario import Context, Line, Operation, Outcome, Run, Scenario
from harness.verdict import Check, Verdict

from ._litter import LITTER
from ._perf_plan import lasts, steps


def build(options: Mapping[str, Any]) -> Scenario:
    """The scenario: the steps of the options, one after the other."""
    return Scenario(
        name="perf",
        system=system,
        workload=workload,
        load=InTurn(len(steps(options))),
        probes=probes,
        probe_interval=1.0,
        checkers=[process_check, judge, leftovers_check],
        planted=options["fault"] or "",
        litter=LITTER,
        summary=summary,
        appendix=log_lines,
        brief=True,
    )


def system(context: Context) -> AbstractContextManager[Any]:
    """The server or servers."""
    from . import _perf_run  # noqa: PLC0415 - NumPy and the library, in the child only

    return _perf_run.system(context)


def workload(run: Any, operation: Operation) -> Outcome:
    """One step."""
    from . import _perf_run  # noqa: PLC0415

    return _perf_run.workload(run, operation)


def probes(context: Context, run: Any) -> Sequence[Any]:
    """What grows in a long step; the figures of a short one are not disturbed."""
    if not lasts(context.options):
        return ()
    from harness.probes import Probe, descriptors_probe, heap_probe, rss_probe, threads_probe  # noqa: PLC0415

    requests = Probe("requests", lambda: {"operations": run.benches[0].requests() if run.benches else 0})
    return [requests, heap_probe(), rss_probe(), descriptors_probe(), threads_probe()]


def judge(run: Run) -> list[Check]:
    """All checks of the figures."""
    from . import _perf_checks  # noqa: PLC0415 - in the parent only

    return _perf_checks.judge(run)


def summary(run: Run) -> Iterator[Line]:
    """Which Triton, and a row for each point."""
    from . import _perf_table  # noqa: PLC0415

    return _perf_table.summary(run)


def log_lines(run: Run, verdict: Verdict) -> Iterator[Line]:
    """Triton's last warnings and errors after a failure; all of the log with -v."""
    from .memalloc import log_lines as lines  # noqa: PLC0415

    return lines(run, verdict)


def cases() -> Iterator[Case]:
    """Short steps over each protocol. Figures are not judged here, what was counted and answered is."""
    for protocol in ("c-api", "http", "grpc"):
        yield Case(protocol, ("perf", "--protocol", protocol, "--concurrency", "1,4", "--duration", "1s"))
