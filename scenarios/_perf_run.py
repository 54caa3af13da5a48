"""perf's child: the servers of a run, on one side or on two, and its steps one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from harness.journal import Journal
from harness.scenario import Context, Operation, Outcome
from tritoncapi import Library
from tritoncapi.errors import TritonError

from . import _triton
from ._perf_measure import Bench, measure
from ._perf_plan import Step, steps, titles


class SideDied(Exception):
    """A server, or the process that holds it, is gone; ``event`` is what the journal says of it."""

    def __init__(self, text: str, **event: Any) -> None:
        super().__init__(text)
        self.event = {"text": text, **event}


class Side(Protocol):
    """What a step is measured on."""

    def measure(self, step: Step) -> dict[str, Any]:
        """The step's figures. Raises SideDied, TritonError."""


@dataclass
class LocalSide:
    """A bench whose load is watched from this process."""

    bench: Bench
    options: Mapping[str, Any]
    journal: Journal

    def measure(self, step: Step) -> dict[str, Any]:
        """The step's figures."""
        return measure(self.bench, step, self.options, self.journal.write)


@dataclass
class Run:
    """The system of the scenario. ``over`` says why no more steps are made."""

    options: Mapping[str, Any]
    journal: Journal
    sides: dict[str, Side] = field(default_factory=dict)
    over: str = ""
    benches: list[Any] = field(default_factory=list)

    @property
    def orderly(self) -> bool:
        """False when something of Triton's still runs on this process's threads."""
        return all(getattr(bench, "orderly", True) for bench in self.benches)

    def refused(self, what: str, error: Exception) -> None:
        """Writes down what Triton refused."""
        self.journal.write("failed", what=what, text=str(error))
        self.over = f"{what} failed before"


@contextmanager
def system(context: Context) -> Iterator[Run]:
    """Starts what the options name and stops it when the steps are over."""
    options, journal = context.options, context.journal
    run = Run(options, journal)
    # Two Tritons through the C API are in processes of their own, so that neither is favoured.
    remote = options["ab"] and options["protocol"] == "c-api"
    library = None if remote else _triton.open_library(options["triton"], journal)
    with ExitStack() as stack:
        try:
            if library is None:
                _start_apart(run, context, stack)
            else:
                _start(run, library, context, stack)
        except TritonError as error:
            run.refused("server", error)
        except SideDied as error:
            journal.write("died", **error.event)
            run.over = str(error)
        yield run
        if options["peer"] and library is not None and not run.over:
            from . import _perf_peer  # noqa: PLC0415

            journal.phase("running perf_analyzer")
            _perf_peer.run(options, library, context.folder, journal)


def _start(run: Run, library: Library, context: Context, stack: ExitStack) -> None:
    options, folder = run.options, context.folder
    if options["protocol"] != "c-api":
        from . import _perf_wire  # noqa: PLC0415 - the clients' packages are needed only then

        for name in "AB" if options["ab"] else ["AB" if options["ab_model"] else "A"]:
            bench = stack.enter_context(_perf_wire.serving(options, name, library, folder, run.journal))
            run.benches.append(bench)
            run.sides |= dict.fromkeys(name, LocalSide(bench, options, run.journal))
        return
    from . import _perf_capi  # noqa: PLC0415

    name = "AB" if options["ab_model"] else "A"
    local = stack.enter_context(_perf_capi.serving(options, name, library, folder, run.journal))
    run.benches.append(local)
    run.sides |= dict.fromkeys(name, LocalSide(local, options, run.journal))


def _start_apart(run: Run, context: Context, stack: ExitStack) -> None:
    from . import _perf_remote  # noqa: PLC0415

    for name in "AB":
        run.sides[name] = stack.enter_context(_perf_remote.serving(run.options, name, context.folder, run.journal))


def workload(run: Run, operation: Operation) -> Outcome:
    """One step: measured, and written down as it ends."""
    if run.over:
        return Outcome("unknown", {}, run.over)
    plan = steps(run.options)
    step = plan[operation.number]
    title = list(titles(plan))[operation.number]
    run.journal.phase(f"measuring {title} ({operation.number + 1} of {len(plan)})")
    try:
        found = run.sides[step.side].measure(step)
    except TritonError as error:
        run.refused("inference", error)
        return Outcome("fail", {}, str(error))
    except SideDied as error:
        run.journal.write("died", **error.event)
        run.over = str(error)
        return Outcome("fail", {}, str(error))
    paired = run.options["two_sides"]
    name = f"{found['protocol']}, {step.point.key}" + (f", side {found['side']}" if paired else "")
    run.journal.write("step", name=name, number=step.number, key=step.point.key, paired=paired, **found)
    if found["lost"]:
        run.over = "requests never came back before"
    return Outcome("fail" if found["lost"] or found["wrong"] else "ok", asdict(step.point))
