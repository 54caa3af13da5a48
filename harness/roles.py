"""Roles: a scenario's, played in the process that is to be tested. Everything goes into the journal as it happens."""

from __future__ import annotations

import importlib
import os
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from .journal import Journal
from .processes import until
from .scenario import Context, Fault, Operation, Outcome, Scenario

SAMPLES = "samples.jsonl"
RUNNING = "running"
"""The phase in which operations are invoked, unless the scenario says what it does."""
_SETTLE = 0.1  # seconds


def build(where: str, options: Mapping[str, Any]) -> Scenario:
    """The scenario that ``module:function`` makes of the options."""
    module, _, function = where.partition(":")
    made = getattr(importlib.import_module(module), function)(options)
    assert isinstance(made, Scenario)
    return made


def execute(parameters: dict[str, Any], book: Journal, folder: Path) -> bool:
    """Entry point of the child: builds the scenario and runs its roles. False when the process must end at once."""
    scenario = build(parameters["scenario"], parameters["options"])
    context = Context(parameters["options"], book, folder)
    over = threading.Event()
    level: list[int] = []
    with (
        scenario.system(context) as system,
        _sampler(scenario.probes(context, system), scenario.probe_interval, folder) as sampler,
    ):

        def invoke(operation: Operation) -> None:
            _invoke(scenario, system, operation, book)

        def settled() -> None:
            done = getattr(system, "operations", 0)
            _wait_for_threads(level)
            book.write("settled", operations=done)
            if sampler is not None:
                sampler.sample_now("settled", cycles=done)

        threads = [_start_fault(fault, context, system, over) for fault in scenario.faults]
        book.phase(RUNNING)
        try:
            scenario.load(context, invoke, settled)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    return bool(getattr(system, "orderly", True))  # only now: it may be its end that was not orderly


def _sampler(probes: Sequence[Any], interval: float, folder: Path) -> AbstractContextManager[Any]:
    if not probes:
        return nullcontext()
    from .sampler import Sampler  # noqa: PLC0415

    return Sampler(probes, folder / SAMPLES, interval)


def _wait_for_threads(level: list[int]) -> None:
    """Waits a moment until there are no more threads than at first: one that was joined may not quite be gone yet."""
    level.append(len(os.listdir("/proc/self/task")))
    until(lambda: len(os.listdir("/proc/self/task")) <= level[0], _SETTLE)


def _invoke(scenario: Scenario, system: Any, operation: Operation, book: Journal) -> None:
    names = {"worker": operation.worker, "number": operation.number}
    book.write("invoke", **names)
    began = time.monotonic_ns()
    try:
        outcome = scenario.workload(system, operation)
    except Exception as error:  # the workload's own failure: nothing is known of the system
        outcome = Outcome("unknown", {"traceback": traceback.format_exc()}, f"{type(error).__name__}: {error}")
    book.write(
        "op", **names, kind=outcome.kind, start_ns=began, value=dict(outcome.value), text=outcome.text
    )


def _start_fault(fault: Fault, context: Context, system: Any, over: threading.Event) -> threading.Thread:
    name = getattr(fault, "__name__", type(fault).__name__)

    def act() -> None:
        context.journal.write("fault", name=name, state="begins")
        try:
            fault(context, system, over.is_set)
        except Exception as error:  # a fault that cannot act is no reason to lose the run
            context.journal.write("fault", name=name, state="broken", text=str(error))
        else:
            context.journal.write("fault", name=name, state="ends")

    thread = threading.Thread(target=act, name=f"fault-{name}", daemon=True)
    thread.start()
    return thread
