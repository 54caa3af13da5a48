"""Tests in a process of their own: this file starts it and shows its reports; ``isolated`` is what runs there."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import child
from harness.child import Ended, Job
from harness.journal import all_of, last
from harness.processes import text

from . import isolated, needs, state

_STACK_LINES = 60
_STOPS = (KeyboardInterrupt, pytest.exit.Exception)
_PYTEST = re.compile(r"(/site-packages/|\()(_pytest|pluggy)/|<frozen runpy>")
_OURS = ("process ", "shared memory ")  # of what a child leaves; its temporary files are the test's own affair
# What would choose other tests, ask questions, start other processes, or write a report of its own.
_QUIET: dict[str, Any] = {
    "keyword": "",
    "markexpr": "",
    "deselect": None,
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "stepwise_skip": False,
    "usepdb": False,
    "trace": False,
    "xmlpath": None,
    "numprocesses": None,
    "maxprocesses": None,
    "dist": "no",
    "tx": [],
    "pyargs": False,
    "triton_isolated": False,
}


def wanted(item: pytest.Item) -> bool:
    """Whether this item is to run in a process of its own, and does not yet."""
    if not isinstance(item, pytest.Function) or isolated.CHILD in item.config.stash:
        return False
    return bool(item.config.getoption("triton_isolated")) or any(one.isolated for one in _needs(item))


def _needs(item: pytest.Item) -> list[needs.Needs]:
    try:
        return needs.of(item)
    except ValueError:  # the test's set-up will say so
        return []


def run(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Runs an item in a child and passes on its reports; a child that crashed or hung is a failure of the test."""
    timeout = min((one.timeout for one in _needs(item)), default=needs.Needs.timeout)
    folder = state.folder(item.config, "isolated")
    process = state.of(item.config)
    parameters = {
        "path": sys.path,
        "cwd": os.getcwd(),
        "argument": f"{item.path}::{item.nodeid.partition('::')[2]}",
        "options": _options(item.config, folder),
        "shm_prefix": process.shm_prefix,
    }
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        ended = child.run(Job("tritoncapi_pytest.isolated:run", parameters, timeout), folder)
    except child.Interrupted:
        raise KeyboardInterrupt from None
    process.append(text(folder / "triton.log"))
    if item.config.getoption("capture", "") == "no":
        sys.stdout.write(text(folder / isolated.OUTPUT))
    *reports, last_one = _reports(item, ended, folder)
    # What other tests of this module have set up here is due to end if this is the last one of it.
    setups: Any = item.session._setupstate
    call = pytest.CallInfo.from_call(lambda: setups.teardown_exact(nextitem), "teardown", _STOPS)
    if call.excinfo is not None:
        last_one = item.ihook.pytest_runtest_makereport(item=item, call=call)
    for report in (*reports, last_one):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _options(config: pytest.Config, folder: Path) -> dict[str, Any]:
    """This process's options, as far as they are plain data, changed so that the child runs one test and no more."""
    options = {}
    for name, value in {**vars(config.option), **_QUIET}.items():
        try:
            options[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue  # an object of a plugin's: the child's own default must do
    # Its faulthandler would write to a place that nobody reads; ours is on.
    plugins = [*(options.get("plugins") or []), "no:faulthandler"]
    # Captured like this, what the C library says before it aborts is on disk.
    capture = "sys" if options.get("capture") == "fd" else options.get("capture")
    return {
        **options,
        "capture": capture,
        "plugins": plugins,
        "rootdir": str(config.rootpath),
        "inifilename": str(config.inipath) if config.inipath else None,
        "basetemp": str(folder / "pytest"),
        "triton_log": str(folder / "triton.log"),
    }


def _reports(item: pytest.Item, ended: Ended, folder: Path) -> list[pytest.TestReport]:
    """The child's reports; where it did not come to its end a passed set-up, a failed call and a passed teardown."""
    found = []
    for event in all_of(ended.events, "report"):
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=event["data"])
        report.nodeid, report.location = item.nodeid, item.location
        if isinstance(report.longrepr, list):  # where a test was skipped: JSON has no tuples
            report.longrepr = tuple(report.longrepr)
        found.append(report)
    complete = bool(found) and found[-1].when == "teardown"
    if ended.how == "ended" and complete and not _left(ended):
        return found
    began = next((event["time_ns"] for event in ended.events), 0) / 1e9
    failure = next((report for report in found if report.failed), None)
    why = _explain(ended, complete)
    call = _report(item, "call", began, ended.seconds, why if failure is None else f"{why}\n\n{failure.longreprtext}")
    state.attach(call, "Stacks", _stacks(ended, folder))
    state.attach(call, "Standard error", "\n".join(ended.errors))
    if not found:
        state.attach(call, "pytest", text(folder / isolated.OUTPUT))
    if failure is None:  # else it has its own
        state.attach(call, "Triton log", state.excerpt(ended.log, folder / "triton.log"))
    return [_report(item, "setup", began, 0.0), call, _report(item, "teardown", began, 0.0)]


def _left(ended: Ended) -> list[str]:
    return [what for what in ended.leftovers if what.startswith(_OURS)]


def _stacks(ended: Ended, folder: Path) -> str:
    """The first stacks, without pytest's part of them."""
    lines = [line for line in ended.stacks.strip().splitlines() if not _PYTEST.search(line)]
    if len(lines) > _STACK_LINES:
        lines[_STACK_LINES:] = [f"... all of {len(lines)} lines are in {folder / 'stacks.txt'}"]
    return "\n".join(lines)


def _explain(ended: Ended, complete: bool) -> str:
    """One sentence on a process that did not end as it should."""
    who = "this test's own process"
    broken = last(ended.events, "broken")
    if ended.how == "crashed":
        return f"{who} crashed with {ended.signal} in {ended.phase}"
    if ended.how == "hung":
        return f"{who} hung in {ended.phase}, and was ended after {ended.seconds:.1f} s"
    if broken is not None:
        return f"{who} could not run it: {broken['text']}"
    if not complete:
        return f"{who} ended early, with exit code {ended.code}, in {ended.phase}"
    return f"{who} left behind, until they were removed: {', '.join(_left(ended))}"


def _report(
    item: pytest.Item, when: Any, start: float, seconds: float, why: str = ""
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed" if why else "passed",
        longrepr=state.failure(why) if why else None,
        when=when,
        duration=seconds,
        start=start,
        stop=start + seconds,
        user_properties=item.user_properties,
    )
