"""matrix: every placement of inputs and outputs with every model, datatype, policy, size, in one process.

After L0_io of Triton's own QA, which starts a process for each combination. Here one server stays alive, its models are
loaded as they come due, and a cell is one request whose values, places and releases are all checked.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.cases import Case
from harness.child import Ended
from harness.journal import all_of, last
from harness.runner import CRASHED
from harness.scenario import Context, Invoke, Line, Operation, Outcome, Run, Scenario
from harness.verdict import Check, Verdict

from ._litter import LITTER
from ._matrix_axes import VALUES

LIMIT, FULL_LIMIT = 600.0, 6 * 3600.0  # seconds
MOST_CRASHES = 20
"""Each is followed by a new process, and costs a second."""

def build(options: Mapping[str, Any]) -> Scenario:
    """The scenario: all chosen cells, one after the other."""
    matrix = _Matrix()
    return Scenario(
        name="matrix",
        system=matrix.system,
        workload=matrix.workload,
        load=matrix.load,
        checkers=[judge],
        resume=resume,
        summary=summary,
        appendix=appendix,
        proved=proved,
        facts=facts,
        planted=options["fault"] or "",
        litter=LITTER,
    )


class _Matrix:
    """The roles in the child: how many cells there are is known only once the server is there."""

    cells = 0

    @contextmanager
    def system(self, context: Context) -> Iterator[Any]:
        """The server."""
        from . import _matrix_run  # noqa: PLC0415 - NumPy and the library, in the child only

        with _matrix_run.system(context) as bench:
            self.cells = len(bench.cells)
            yield bench

    def load(self, _context: Context, invoke: Invoke, _settled: Any) -> None:
        """All cells in turn."""
        for number in range(self.cells):
            invoke(Operation(0, number))

    def workload(self, bench: Any, operation: Operation) -> Outcome:
        """One cell; the journal's line ``cell`` says what came of it."""
        from . import _matrix_run  # noqa: PLC0415

        outcome = _matrix_run.do_cell(bench, operation.number)
        return Outcome({"pass": "ok", "known": "ok", "fail": "fail"}.get(outcome, "unknown"))


def resume(ended: Ended) -> Mapping[str, Any] | None:
    """After a crash in a cell: how many cells are over, that one too. None when it crashed in none, or too often."""
    crashes = 1 + len(all_of(ended.events, CRASHED))
    begun = len(all_of(ended.events, "begun"))
    plan = last(ended.events, "plan")
    in_cell = begun > len(all_of(ended.events, "cell")) + crashes - 1
    if plan is None or not in_cell or crashes > MOST_CRASHES or begun >= plan["selected"]:
        return None
    return {"done": begun}


def judge(run: Run) -> list[Check]:
    """All checks."""
    from . import _matrix_checks  # noqa: PLC0415 - in the parent only

    return _matrix_checks.judge(run)


def facts(run: Run) -> dict[str, Any]:
    """The cells, and what was chosen and why, for programs."""
    from . import _matrix_checks  # noqa: PLC0415

    return _matrix_checks.facts(run)


def proved(run: Run) -> str:
    """What a pass says."""
    from . import _matrix_checks  # noqa: PLC0415

    return _matrix_checks.proved(run)


def summary(run: Run) -> Iterator[Line]:
    """What was run, and the heat map."""
    from . import _matrix_map  # noqa: PLC0415 - rich takes its time

    return _matrix_map.summary(run)


def appendix(run: Run, verdict: Verdict) -> Iterator[Line]:
    """The failing cells in full, each with the command that runs it alone."""
    from . import _matrix_map  # noqa: PLC0415

    return _matrix_map.failures(run, verdict)


def complete(options: dict[str, Any]) -> dict[str, Any]:
    """The options with what follows from them."""
    full = {
        "only": [],
        "skip": [],
        "full": False,
        "done": 0,
        "fault": None,
        "triton": None,
        "timeout": None,
        "verbose": False,
        **options,
        # Triton's Python backend refuses names with spaces; this one is ours alone.
        "shm_prefix": f"tritoncapi_{os.getpid()}_{uuid.uuid4().hex[:8]}_",
    }
    if full["timeout"] is None:
        full["timeout"] = FULL_LIMIT if full["full"] else LIMIT
    if full["triton"]:  # the child has a working directory of its own
        full["triton"] = os.path.abspath(os.path.expanduser(full["triton"]))
    return full


def cases() -> Iterator[Case]:
    """The pairwise choice for each datatype of the native backend, and for Python models."""
    for datatype in VALUES["type"]:
        yield Case(f"native-{datatype}", ("matrix", "--only", f"backend=native,type={datatype}"))
    yield Case("python", ("matrix", "--only", "backend=python"))
    yield Case("dlpack", ("matrix", "--only", "backend=dlpack"), gpus=1)
