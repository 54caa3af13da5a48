"""diff: which changes are for the worse, and what is said of figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from saved_runs import cells, operations, sampled, save

from harness import cli, runner
from harness.report.diff import diff


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli.main, ["diff", *map(str, words)])


def test_the_same_run_does_not_differ(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", operations(5), sampled(20))
    done = invoke(folder, folder)
    assert done.exit_code == 0
    assert done.output.startswith("matrix: 0 verdicts changed, none for the worse; 0 of ")


@pytest.mark.parametrize(
    ("a", "b", "worse"),
    [
        ("pass", "fail", True),
        ("pass", "unknown", True),
        ("pass", "skipped", True),
        ("pass", "", True),
        ("skipped", "unknown", True),
        ("unknown", "fail", True),
        ("", "fail", True),
        ("", "unknown", True),
        ("fail", "unknown", False),
        ("fail", "pass", False),
        ("unknown", "skipped", False),
        ("skipped", "pass", False),
        ("", "pass", False),
    ],
)
def test_what_is_worse(tmp_path: Path, a: str, b: str, worse: bool) -> None:
    left, right = (
        save(tmp_path / name, checks=[["one", "pass", "x"], *([["values", verdict, "why"]] if verdict else [])])
        for name, verdict in (("a", a), ("b", b))
    )
    found = diff(runner.judge(left), runner.judge(right))
    change = next(change for change in found.verdicts if change.name == "values")
    assert (change.a, change.b) == (a or "absent", b or "absent")
    assert change.worse == worse
    done = invoke(left, right)
    assert done.exit_code == (1 if worse else 0)
    assert ("worse" in done.output.splitlines()[1]) == worse


def test_figures_have_their_relative_change(tmp_path: Path) -> None:
    a = save(tmp_path / "a", operations(5), sampled(10, leak=0), log=1)
    b = save(tmp_path / "b", operations(10), sampled(10, leak=2), log=2)
    done = invoke(a, b, "--json", tmp_path / "diff.json", "--all")
    assert done.exit_code == 0
    found: dict[str, Any] = json.loads((tmp_path / "diff.json").read_text())
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert (figures["operations"]["a"], figures["operations"]["b"]) == (20, 40)
    assert figures["operations"]["change"] == 1
    assert figures["descriptors last"]["change"] == (26 - 8) / 8
    assert "heap_in_use last" not in figures  # the same in both
    assert {"name": "options log", "a": 1, "b": 2} in found["described"]
    assert "+100 %" in done.output
    assert "options log" in done.output


def test_cells_differ_too(tmp_path: Path) -> None:
    before = [{**cell, "outcome": "pass"} for cell in cells()]
    done = invoke(save(tmp_path / "a", before), save(tmp_path / "b", cells()[:-1]))
    assert done.exit_code == 1
    assert "in=gpu:0,model=cpu,out=gpu:0,datatype=bytes,backend=native" in done.output
    assert "absent" in done.output


def test_bad_folders_and_other_scenarios_are_one_line(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", name="one"), save(tmp_path / "b", name="two")
    for words in ((a, b), (a, tmp_path / "nope"), (tmp_path, a), (a, a, "--json", "/nowhere/x")):
        done = invoke(*words)
        assert done.exit_code == 2
        assert len(done.output.splitlines()) == 1


def test_a_lost_file_does_not_take_the_finding_with_it(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a"), save(tmp_path / "b", checks=[["values", "fail", "wrong"]])
    done = invoke(a, b, "--json", "/dev/full")
    assert done.exit_code == 1
    assert "for the worse" in done.output
    assert invoke(a, a, "--json", "/dev/full").exit_code == 4
