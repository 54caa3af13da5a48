"""Runs a scenario: in a child that writes everything down, in a folder that is kept, judged when it is over."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import child, journal
from .child import Ended, Job
from .errors import LacksError, UsageError
from .journal import Event, Journal
from .processes import until
from .scenario import Context, Fault, Operation, Outcome, Run, Scenario
from .verdict import Check, Verdict, overall, unknown

_SETTLE = 0.1  # seconds
RUN, ENDED, SAMPLES = "run.json", "ended.json", "samples.jsonl"


# In the child


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
        book.phase("running")
        try:
            scenario.load(context, invoke, settled)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        return bool(getattr(system, "orderly", True))


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


# In the parent


@dataclass(frozen=True)
class Result:
    """A judged run and where it lies."""

    name: str
    run: Run
    checks: list[Check]
    folder: Path

    @property
    def verdict(self) -> Verdict:
        """The verdict over all checks."""
        return overall(self.checks)

    def as_json(self) -> dict[str, Any]:
        """The result as plain data; the history itself is in the run's folder."""
        ended = asdict(self.run.ended)
        ended.pop("events")
        return {
            "scenario": self.name,
            "verdict": self.verdict.value,
            "checks": [check.as_json() for check in self.checks],
            "options": dict(self.run.options),
            "process": ended,
            "folder": str(self.folder),
        }


def build(where: str, options: Mapping[str, Any]) -> Scenario:
    """The scenario that ``module:function`` makes of the options."""
    module, _, function = where.partition(":")
    made = getattr(importlib.import_module(module), function)(options)
    assert isinstance(made, Scenario)
    return made


def new_folder(runs: Path, name: str) -> Path:
    """A fresh folder for a run. Raises UsageError when it cannot be made."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    try:
        for number in range(1000):
            folder = runs / f"{stamp}-{name}{f'-{number}' if number else ''}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if not runs.is_dir():
                    raise
                continue
            return folder.absolute()
    except OSError as error:
        raise UsageError(f"--runs {runs}: no run can be kept there: {error.strerror}") from error
    raise UsageError(f"--runs {runs}: too many runs of this second")


def run(
    where: str,
    options: Mapping[str, Any],
    folder: Path,
    *,
    timeout: float,
    in_process: bool = False,
    tick: Callable[[float], None] | None = None,
) -> Result:
    """Runs a scenario, saves how it ended, judges it. Raises UsageError, LacksError, child.Interrupted."""
    scenario = build(where, options)
    (folder / RUN).write_text(json.dumps(describe(scenario.name, where, options), indent=2, default=str) + "\n")
    parameters = {"scenario": where, "options": dict(options), "shm_prefix": options.get("shm_prefix", "")}
    if in_process:
        ended = here(parameters, folder)
    else:
        ended = child.run(Job("harness.runner:execute", parameters, timeout, scenario.litter), folder, tick)
    saved = asdict(ended)
    saved.pop("events")
    (folder / ENDED).write_text(json.dumps(saved, indent=2) + "\n")
    for name, error in (("usage", UsageError), ("lacks", LacksError)):
        event = journal.last(ended.events, name)
        if event is not None:
            raise error(event["text"])
    return judge(folder)


def here(parameters: dict[str, Any], folder: Path) -> Ended:
    """Runs the roles in this process, for debuggers: a crash is the caller's."""
    began = time.monotonic()
    book = Journal(folder / "journal.jsonl")
    execute(parameters, book, folder)
    book.write("end")
    book.close()
    return Ended("ended", 0, time.monotonic() - began, journal.read(folder / "journal.jsonl"))


def describe(name: str, where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a saved run says of itself: command, versions, environment."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    versions = {"python": platform.python_version()}
    for package in ("tritoncapi-harness", "numpy", "cuda-bindings", "nvidia-pytriton"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    prefixes = ("TRITON", "CUDA_", "NVIDIA_", "MALLOC_", "LD_PRELOAD")
    return {
        "scenario": name,
        "build": where,
        "options": dict(options),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions,
        "machine": {"platform": platform.platform(), "cpus": len(os.sched_getaffinity(0))},
        "environment": {key: value for key, value in os.environ.items() if key.startswith(prefixes)},
    }


def judge(folder: Path) -> Result:
    """Judges a saved run. Raises UsageError for a folder that holds none."""
    described = _load(folder / RUN)
    scenario = build(described["build"], described["options"])
    events = journal.read(folder / "journal.jsonl")
    path = folder / ENDED
    saved = _load(path) if path.exists() else {"how": "lost", "code": None, "seconds": 0.0}
    past = Run(described["options"], Ended(events=events, **saved), journal.read(folder / SAMPLES))
    checks: list[Check] = []
    for checker in scenario.checkers:
        try:
            checks += checker(past)
        except Exception as error:  # a checker that breaks must not pass for one that found nothing
            name = getattr(checker, "__name__", type(checker).__name__)
            text = f"the check itself failed: {type(error).__name__}: {error}"
            checks.append(unknown(name, text, traceback=traceback.format_exc()))
    if scenario.planted and overall(checks) == Verdict.PASS:
        checks.append(unknown("planted fault", f"{scenario.planted} was planted, and no check saw anything of it"))
    return Result(scenario.name, past, checks, folder)


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.parent} holds no run: {path.name}: {error}") from error
    assert isinstance(loaded, dict)
    return loaded


def process_check(run: Run) -> list[Check]:
    """How the child ended; every scenario's first checker."""
    from .verdict import failed, passed  # noqa: PLC0415

    ended = run.ended
    details: dict[str, Any] = {"stacks": ended.stacks, "log": ended.log[-10:], "errors": ended.errors[-10:]}
    where = ended.phase + _outstanding(ended.events)
    broken = journal.last(ended.events, "broken")
    if ended.how == "lost":
        return [unknown("process", f"the run was cut off while {where}: its end was not seen", **details)]
    if ended.how == "crashed":
        return [failed("process", f"Triton crashed with {ended.signal} while {where}", signal=ended.signal, **details)]
    if ended.how == "hung":
        return [failed("process", f"Triton hung while {where}; ended after {ended.seconds:.1f} s", **details)]
    if broken is not None:
        return [unknown("process", f"the harness failed while {where}: {broken['text']}", **broken)]
    if journal.last(ended.events, "end") is None:
        return [failed("process", f"the run ended early with code {ended.code} while {where}", **details)]
    idle = [event for event in journal.all_of(ended.events, "fault") if event["state"] == "broken"]
    faults = [unknown(f"fault {event['name']}", f"it could not act: {event['text']}") for event in idle]
    return [passed("process", f"ended by itself after {ended.seconds:.2f} s"), *faults]


def leftovers_check(run: Run) -> list[Check]:
    """What the child left behind; every scenario's last checker, as something else is mostly the reason."""
    from .verdict import failed, passed  # noqa: PLC0415

    ended = run.ended
    if ended.leftovers:
        text = f"left behind, and removed: {', '.join(ended.leftovers[:4])}"
        return [failed("left over", text, leftovers=ended.leftovers)]
    if ended.how != "ended":
        return []  # after kill -9 it is the harness that cleans up
    return [passed("left over", "no process, shared memory or temporary file")]


def _outstanding(events: list[Event]) -> str:
    """Which operations were under way at the end."""
    started = {(event["worker"], event["number"]) for event in events if event["event"] == "invoke"}
    ended = {(event["worker"], event["number"]) for event in events if event["event"] == "op"}
    left = sorted(started - ended)
    if not left:
        return ""
    names = ", ".join(f"thread {worker} loop {number}" for worker, number in left[:8])
    return f" ({names}{' and others' if len(left) > 8 else ''})"
