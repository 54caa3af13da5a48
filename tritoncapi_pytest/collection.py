"""Scenarios as tests: one for each case that a scenario's module lists, run as its command line would."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cases import Case
from harness.processes import text
from harness.verdict import Check, ExitCode, Verdict

from . import state

PACKAGE = "scenarios"
_COMMAND = Path(__file__).with_name("command.py")
_SHOWN_APART = {"stacks", "log", "errors"}  # the output, or the log, has them
_LONGEST = 600  # characters of one piece of evidence
_INTERRUPTED = 60.0  # seconds that a command may take to clean up after Ctrl-C


class ScenarioFile(pytest.File):
    """A scenario's module."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each case."""
        module = importlib.import_module(f"{PACKAGE}.{self.path.stem}")
        for case in module.cases():
            yield ScenarioItem.from_parent(self, name=case.name, case=case)


class ScenarioItem(pytest.Item):
    """A case: passes, fails with all that is known, or is skipped for what this machine lacks."""

    def __init__(self, *, case: Case, **more: Any) -> None:
        super().__init__(**more)
        self.case = case
        self.add_marker(pytest.mark.triton(gpus=case.gpus))
        if case.defect:
            self.add_marker(pytest.mark.xfail(reason=case.defect, strict=True, raises=state.Failed))

    def runtest(self) -> None:
        """Runs the command in a process of its own, and judges by its exit code and what it saved."""
        words = list(self.case.words)
        if triton := self.config.getoption("triton"):
            words += ["--triton", triton]
        folder = state.folder(self.config, PACKAGE)
        saved = folder / "result.json"
        done = run([*words, "--json", str(saved), "--runs", str(folder / "runs")], folder)
        command = shlex.join(["tritoncapi-harness", *words])
        if done.returncode == ExitCode.LACKS:
            pytest.skip(last_line(done.stderr))
        result = read(saved)
        if done.returncode == ExitCode.PASS and result.get("verdict") == Verdict.PASS.value:
            self.user_properties += [("command", command), ("sentence", result["sentence"])]
            return
        if result:
            file = Path(result["folder"], "triton.log")
            log = [*text(file).splitlines(), *result["errors"]]
            self.stash.setdefault(state.SECTIONS, []).append(("Triton log", state.excerpt(log, file)))
        reason = self.case.excuse(checks(result))
        if reason and done.returncode == ExitCode.FAIL:
            pytest.xfail(reason)
        raise state.Failed(explain(command, done, result))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A verdict needs no Python traceback."""
        if isinstance(excinfo.value, state.Failed):
            return excinfo.getrepr(style="value")
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The module, and the case's name."""
        return self.path, 0, self.name  # a line, for the places where pytest shows one


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command; one that Ctrl-C ends cleans up before this raises KeyboardInterrupt."""
    out, errors = folder / "stdout.txt", folder / "stderr.txt"
    with out.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(_COMMAND), str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            code = process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_INTERRUPTED)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    return subprocess.CompletedProcess(words, code, *(file.read_text(errors="replace") for file in (out, errors)))


def read(saved: Path) -> dict[str, Any]:
    """The result that a command saved; nothing if it did not come to that."""
    try:
        result = json.loads(saved.read_text())
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def checks(result: dict[str, Any]) -> list[Check]:
    """The checks of a saved result."""
    found = result.get("checks", [])
    return [Check(one["name"], Verdict(one["verdict"]), one["sentence"], one["evidence"]) for one in found]


def explain(command: str, done: subprocess.CompletedProcess[str], result: dict[str, Any]) -> str:
    """What a failure says: the verdict, what the command showed, the evidence, and how to see it again."""
    if result:
        head = f"{result['scenario']}: {result['verdict'].upper()} - {result['sentence']}"
    elif done.returncode < 0:
        head = f"the harness itself ended by signal {-done.returncode}"
    else:
        head = f"exit code {done.returncode} without a result: {last_line(done.stderr)}"
    output = "\n".join(line for line in done.stdout.splitlines() if line != head)
    parts = [head, output.strip("\n"), *evidence(checks(result)), done.stderr.strip("\n"), f"again: {command}"]
    return "\n\n".join(part for part in parts if part)


def evidence(found: Iterable[Check]) -> Iterator[str]:
    """The figures behind each check that did not pass."""
    for check in found:
        if check.verdict in (Verdict.FAIL, Verdict.UNKNOWN):
            facts = {key: value for key, value in check.evidence.items() if key not in _SHOWN_APART}
            lines = [f"  {key}: {_short(value)}" for key, value in facts.items()]
            if lines:
                yield "\n".join([f"evidence of {check.name}:", *lines])


def _short(value: Any) -> str:
    whole = value if isinstance(value, str) else json.dumps(value, default=str)
    return whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]} ... ({len(whole)} characters)"


def last_line(output: str) -> str:
    """The last line that says something."""
    return next((line for line in reversed(output.splitlines()) if line.strip()), "it said nothing")
