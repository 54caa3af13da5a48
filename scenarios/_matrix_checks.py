"""matrix's checks: what the journal says of the cells, judged. Pure functions of a finished run."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from textwrap import shorten
from typing import Any

from harness.endings import leftovers_check, process_check
from harness.journal import Event, last
from harness.runner import CRASHED
from harness.scenario import Run
from harness.verdict import Check, Verdict, failed, passed, skipped, unknown

_STUCK_STUB = (
    "known, now and then: the stub of a Python model that was given GPU tensors does not end; its model stays UNLOADING"
)


def cells_of(run: Run) -> list[Event]:
    """A line for each cell that was begun; those that a child did not survive are among them, as failed."""
    cells: list[Event] = []
    begun = ""
    for event in run.ended.events:
        if event["event"] == "begun":
            begun = event["cell"]
        elif event["event"] == "cell":
            begun = ""
            cells.append(event)
        elif event["event"] == CRASHED and begun:
            cells.append(_fatal(begun, "fail", f"Triton crashed with {event['signal']} in this cell"))
            begun = ""
    if begun:
        cells.append(_fatal(begun, *_last_seen(run)))
    return cells


def _fatal(cell: str, outcome: str, evidence: str) -> Event:
    axes = dict(word.split("=") for word in cell.split(","))
    blank = {"expected": "pass", "known": "", "ms": 0.0, "problems": [], "tensors": []}
    return {"cell": cell, "axes": axes, "outcome": outcome, "evidence": evidence, **blank}


def _last_seen(run: Run) -> tuple[str, str]:
    ended = run.ended
    if ended.how == "crashed":
        return "fail", f"Triton crashed with {ended.signal} in this cell"
    if ended.how == "hung":
        outcome = "fail" if process_check(run)[0].verdict == Verdict.FAIL else "unknown"  # it may just have been late
        return outcome, f"this cell was under way when the time was over, after {ended.seconds:.1f} s"
    return "unknown", "the run was cut off in this cell"


def figures(run: Run) -> dict[str, Any]:
    """How many cells there were of each outcome, and how long they and their models took."""
    seconds = loading = 0.0
    mark = 0
    for event in run.ended.events:
        now = event["time_ns"]
        if event["event"] == "loaded":
            loading += event["seconds"]
            mark = now
        elif event["event"] == "cell":
            seconds += (now - mark) / 1e9
            mark = now
        elif event["event"] == CRASHED:
            mark = 0
        mark = mark or now
    cells = cells_of(run)
    return {
        "outcomes": dict(Counter(cell["outcome"] for cell in cells)),
        "done": len(cells),
        "seconds": seconds,
        "loading_seconds": loading,
        "rate": len(cells) / seconds if seconds else 0.0,
    }


def reproducer(run: Run, cell: str) -> str:
    """The command that runs one cell alone."""
    options = run.options
    words = ["tritoncapi-harness", "matrix", "--only", cell]
    for name in ("fault", "triton"):
        if options.get(name):
            words += [f"--{name}", options[name]]
    return shlex.join(words)


def judge(run: Run) -> list[Check]:
    """All checks of a run."""
    cells = cells_of(run)
    outcomes = Counter(cell["outcome"] for cell in cells)
    stuck = _stuck_stub(run)
    checks = [_cells(run, cells, outcomes), *_known(cells, outcomes), *_choice(run)]
    if (end := _process(run)) is not None:
        # A cell that crashed or hung says it better than the process; without one the process is all there is.
        checks.insert(1 if outcomes["fail"] else 0, end)
    checks += _reached(run, cells)
    checks += _calls(run.ended.events, outcomes)
    if stuck is not None:
        return [*checks, stuck]
    return [*checks, *_stop(run.ended.events), *leftovers_check(run)]


def _cells(run: Run, cells: list[Event], outcomes: Counter[str]) -> Check:
    if not cells:
        return unknown("cells", "no cell was run, so nothing is known")
    bad = [cell for cell in cells if cell["outcome"] == "fail"]
    if bad:
        names = [cell["cell"] for cell in bad]
        first = bad[0]
        why = first["problems"][0][1] if first["problems"] else first["evidence"]
        text = f"{len(bad)} of {len(cells)} cells failed; {first['cell']}: {shorten(why, 200, placeholder=' ...')}"
        return failed("cells", text, cells=names, commands=[reproducer(run, name) for name in names])
    if not outcomes["pass"]:
        return unknown("cells", f"none of {len(cells)} cells passed: {_words(outcomes)}")
    return passed("cells", f"{outcomes['pass']} cells passed: every value, every place, every release")


def _known(cells: list[Event], outcomes: Counter[str]) -> list[Check]:
    checks = []
    if outcomes["known"]:
        names = Counter(cell["known"] for cell in cells if cell["outcome"] == "known")
        text = ", ".join(f"{name} ({number})" for name, number in names.items())
        checks.append(skipped("known failures", f"{outcomes['known']} cells failed as this Triton is known to: {text}"))
    fixed = [cell for cell in cells if cell["outcome"] == "unexpected_pass"]
    if fixed:
        first = fixed[0]
        text = f"{len(fixed)} cells passed that were expected to fail; {first['cell']}: {first['known']}"
        checks.append(unknown("known failures", text, cells=[cell["cell"] for cell in fixed]))
    return checks


def _choice(run: Run) -> list[Check]:
    plan = last(run.ended.events, "plan")
    if plan is None:
        return []
    if plan["full"] or not plan["pairs"]:
        return [skipped("choice", f"all {plan['selected']} cells that are possible here and were asked for")]
    text = f"all {plan['pairs']} pairs of values that can be are in {plan['selected']} of {plan['possible']} cells"
    return [passed("choice", text)]


def _process(run: Run) -> Check | None:
    """How the child ended, where that is a finding that no cell has."""
    check = process_check(replace(run, ended=replace(run.ended, leftovers=[])))[0]
    if check.verdict == Verdict.PASS:
        return None
    begun = last(run.ended.events, "begun")
    if begun is None:
        return check
    where = f"running {begun['cell']}"
    return replace(check, sentence=re.sub(r"running( \(thread 0 loop \d+\))?", where, check.sentence))


def _reached(run: Run, cells: list[Event]) -> list[Check]:
    plan = last(run.ended.events, "plan")
    due = plan["selected"] if plan is not None else 0
    idle = sum(cell["outcome"] == "unknown" for cell in cells)
    found = []
    if len(cells) < due:
        found.append(unknown("not reached", f"{due - len(cells)} of {due} cells were not run"))
    if idle:
        first = next(cell for cell in cells if cell["outcome"] == "unknown")
        found.append(unknown("not known", f"{idle} cells; {first['cell']}: {first['evidence']}"))
    return found


def _calls(events: list[Event], outcomes: Counter[str]) -> list[Check]:
    calls = last(events, "calls")
    if calls is None:
        return []
    problems = []
    if calls["open"]:
        problems.append(f"{calls['open']} request(s) never came back")
    if calls["strays"]:
        problems.append(f"{calls['strays']} response(s) came after their request was over")
    if problems:
        return [failed("requests", "; ".join(problems))]
    crashed = sum(event["event"] == CRASHED for event in events)
    rest = f"; {crashed} crashed with Triton" if crashed else ""
    answered = sum(outcomes.values()) - crashed
    if not answered:
        return [unknown("requests", f"none was answered{rest}")]
    return [passed("requests", f"each of {answered} was answered once and came back{rest}")]


def _stop(events: list[Event]) -> list[Check]:
    stop = last(events, "stop")
    if stop is None:
        return []
    if stop["text"]:
        return [failed("stop", stop["text"])]
    return [passed("stop", f"the server stopped in {stop['seconds']:.2f} s")]


def _stuck_stub(run: Run) -> Check | None:
    stop = last(run.ended.events, "stop")
    if stop is None or not stop["text"]:
        return None
    models = re.findall(r"(\w+) is (\w+)", stop["text"])
    if models and all(name.startswith("dlpack_") and state == "UNLOADING" for name, state in models):
        return skipped("stop", _STUCK_STUB, left=run.ended.leftovers, text=stop["text"])
    return None


def _words(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in outcomes.items())


def proved(run: Run) -> str:
    """What a pass says."""
    cells = cells_of(run)
    known = sum(cell["outcome"] == "known" for cell in cells)
    besides = f", {known} failed as this Triton is known to" if known else ""
    return f"{sum(cell['outcome'] == 'pass' for cell in cells)} of {len(cells)} cells passed{besides}"


def facts(run: Run) -> dict[str, Any]:
    """What the JSON result says of the cells, and of how they were chosen."""
    hidden = {"event", "time_ns"}
    plan = last(run.ended.events, "plan") or {}
    done = figures(run)
    cells = [
        {**{key: value for key, value in cell.items() if key not in hidden}, "reproduce": reproducer(run, cell["cell"])}
        for cell in cells_of(run)
    ]
    return {
        "matrix": {key: value for key, value in {**plan, **done}.items() if key not in hidden},
        "cells": cells,
    }
