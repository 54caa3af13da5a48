"""Runs a scenario: in a child that writes everything down, in a folder that is kept, judged when it is over."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from . import child, journal
from .child import Ended, Job
from .errors import LacksError, UsageError
from .journal import Journal
from .roles import SAMPLES, build, execute
from .scenario import Run, Scenario
from .verdict import Check, Verdict, exit_code, overall, unknown

_LINES = 400  # of the log, and of standard error, in a result
PACKAGES = ("tritoncapi-harness", "numpy", "cuda-bindings", "nvidia-pytriton")
_HISTORY = "history"  # how many events the journal had
_TYPES = {"how": str, "signal": str, "stacks": str, "log": list, "errors": list, "leftovers": list, "litter": list}
CRASHED = "crashed"  # in the journal: a child that was followed by another
FORMAT = 1
"""Version of the JSON that commands write (docs/report-schema.md): raised when something is taken away or changed."""
_DESCRIBED = ("command", "started", "versions", "machine", "environment")
RUN, ENDED = "run.json", "ended.json"


@dataclass(frozen=True)
class Result:
    """A judged run and where it lies."""

    scenario: Scenario
    run: Run
    checks: list[Check]
    folder: Path
    described: Mapping[str, Any] = field(default_factory=dict)
    """What run.json says: command, versions, machine, environment."""

    @property
    def verdict(self) -> Verdict:
        """The verdict over all checks."""
        return overall(self.checks)

    @property
    def sentence(self) -> str:
        """Why: the first check of the verdict's kind; for a pass what was proved, or how many checks it rests on."""
        if self.verdict == Verdict.PASS:
            passes = sum(check.verdict == Verdict.PASS for check in self.checks)
            return self.scenario.proved(self.run) or f"{passes} checks passed"
        first = next((check for check in self.checks if check.verdict == self.verdict), None)
        return " ".join(f"{first.name}: {first.sentence}".split()) if first else "nothing was checked"

    @property
    def facts(self) -> dict[str, Any]:
        """What the scenario adds to the JSON; of a history that was edited perhaps nothing can be said."""
        try:
            return dict(self.scenario.facts(self.run))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return {}

    def as_json(self) -> dict[str, Any]:
        """The result as plain data; a history that is not brief, and the whole log, are in the run's folder only."""
        ended = self.run.ended
        result = {
            "format": {"name": "tritoncapi-harness-run", "version": FORMAT},
            "scenario": self.scenario.name,
            "verdict": self.verdict.value,
            "exit_code": int(exit_code(self.verdict)),
            "sentence": self.sentence,
            "checks": [check.as_json() for check in self.checks],
            "options": dict(self.run.options),
            **{name: self.described[name] for name in _DESCRIBED if name in self.described},
            "process": {
                "how": ended.how,
                "code": ended.code,
                "signal": ended.signal,
                "seconds": ended.seconds,
                "phase": ended.phase,
                "leftovers": ended.leftovers,
                "stacks": ended.stacks,
            },
            "log": ended.log[-_LINES:],
            "errors": ended.errors[-_LINES:],
            "folder": str(self.folder),
            **self.facts,
        }
        return {**result, "journal": ended.events} if self.scenario.brief else result


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
        text = f"--runs {runs}: no run can be kept there: {error.strerror}; give another folder with --runs"
        raise UsageError(text) from error
    raise UsageError(f"--runs {runs}: too many runs of this second")


def run(
    where: str,
    options: Mapping[str, Any],
    folder: Path,
    *,
    timeout: float,
    in_process: bool = False,
    tick: Callable[[float], None] | None = None,
    over: Callable[[], None] = lambda: None,
) -> Result:
    """Runs a scenario, saves how it ended, judges it. Raises UsageError, LacksError, child.Interrupted.

    ``over`` is called when the child has ended and only what it left is to be judged.
    """
    scenario = build(where, options)

    def write() -> None:
        description = describe(scenario.name, where, options)
        (folder / RUN).write_text(json.dumps(description, indent=2, default=str) + "\n")

    parameters = {"scenario": where, "options": dict(options), "shm_prefix": options.get("shm_prefix", "")}
    if in_process:
        write()
        ended = here(parameters, folder)
    else:
        job = Job("harness.roles:execute", parameters, timeout, scenario.litter)
        ended = child.run(job, folder, tick, write)
        while ended.how == "crashed" and ended.seconds < timeout and (change := scenario.resume(ended)) is not None:
            ended = _go_on(job, ended, change, folder, tick)
    over()
    saved = asdict(ended)
    saved[_HISTORY] = len(saved.pop("events"))
    (folder / ENDED).write_text(json.dumps(saved, indent=2) + "\n")
    for name, error in (("usage", UsageError), ("lacks", LacksError)):
        event = journal.last(ended.events, name)
        if event is not None:
            raise error(event["text"])
    return judge(folder)


def _go_on(
    job: Job, ended: Ended, change: Mapping[str, Any], folder: Path, tick: Callable[[float], None] | None
) -> Ended:
    """Another child, in the same folder, for what a crashed one left undone; the journal says that it crashed."""
    with closing(Journal(folder / "journal.jsonl")) as book:
        book.write(CRASHED, signal=ended.signal, seconds=ended.seconds, leftovers=ended.leftovers)
    parameters = {**job.parameters, "options": {**job.parameters["options"], **change}}
    rest = replace(job, parameters=parameters, timeout=job.timeout - ended.seconds)
    passed = ended.seconds
    after = child.run(rest, folder, None if tick is None else lambda seconds: tick(passed + seconds))
    # Of what the crashed one left behind the journal says enough: it is the harness that cleans up then.
    return replace(after, seconds=passed + after.seconds, litter=[*ended.litter, *after.litter])


def here(parameters: dict[str, Any], folder: Path) -> Ended:
    """Runs the roles in this process, for debuggers: a crash is the caller's."""
    began = time.monotonic()
    with closing(Journal(folder / "journal.jsonl")) as book:
        execute(parameters, book, folder)
        book.write("end")
    return Ended("ended", 0, time.monotonic() - began, **child.evidence(folder), looked=False)


def describe(name: str, where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a saved run says of itself: command, versions, environment."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        # importlib.metadata would parse each package's description, which takes longer than all the rest here.
        stem = package.replace("-", "_")
        found = (info for entry in sys.path for info in Path(entry).glob(f"{stem}-*.dist-info"))
        if (first := next(found, None)) is not None:
            versions[package] = first.stem.partition("-")[2]
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
    try:
        scenario, options = build(described["build"], described["options"]), described["options"]
    except (AssertionError, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder}: {RUN} names no scenario of this version: {error}") from error
    try:
        saved = child.evidence(folder) | {"how": "lost", "code": None, "seconds": 0.0}
        samples = journal.read(folder / SAMPLES)
    except OSError as error:
        raise UsageError(f"{folder} holds no run that can be read: {error.filename}: {error.strerror}") from error
    if (folder / ENDED).exists():
        known = {each.name for each in fields(Ended)} | {_HISTORY}
        saved |= {key: value for key, value in _load(folder / ENDED).items() if key in known}
    due = saved.pop(_HISTORY, 0)
    for key, kind in (*_TYPES.items(), (_HISTORY, int)):
        if not isinstance(due if key == _HISTORY else saved.get(key, kind()), kind):
            raise UsageError(f"{folder} holds no run that can be read: {ENDED}: {key} is no {kind.__name__}")
    whole = [event for event in saved["events"] if journal.is_whole(event)]
    odd = len(saved["events"]) - len(whole)
    past = Run(options, Ended(**{**saved, "events": whole}), samples)
    checks: list[Check] = []
    if len(past.ended.events) < due:
        text = f"only {len(past.ended.events)} of {due} events are left in journal.jsonl: what the run did is not known"
        return Result(scenario, past, [unknown("history", text)], folder, described)
    if odd:
        text = f"{odd} lines of journal.jsonl have no event or no time: it was edited, so what the run did is not known"
        return Result(scenario, past, [unknown("history", text)], folder, described)
    for checker in scenario.checkers:
        try:
            checks += checker(past)
        except Exception as error:  # a checker that breaks must not pass for one that found nothing
            name = getattr(checker, "__name__", type(checker).__name__)
            text = f"the check itself failed: {type(error).__name__}: {error}"
            checks.append(unknown(name, text, traceback=traceback.format_exc()))
    if scenario.planted and overall(checks) == Verdict.PASS:
        checks.append(unknown("planted fault", f"{scenario.planted} was planted, and no check saw anything of it"))
    return Result(scenario, past, checks, folder, described)


def _load(path: Path) -> dict[str, Any]:
    folder = path.parent
    advice = "give the folder that a run's last line names (kept in ...)"
    try:
        loaded = json.loads(path.read_text())
    except OSError as error:
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder; {advice}") from error
        raise UsageError(f"{folder} holds no run: {path.name}: {error.strerror}; {advice}") from error
    except ValueError as error:
        raise UsageError(f"{folder} holds no run that can be read: {path.name}: {error}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{folder} holds no run that can be read: {path.name} is no JSON object")
    return loaded
