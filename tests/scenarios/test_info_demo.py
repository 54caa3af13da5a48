"""info and demo: what they show, and how they judge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from harness import child, cli
from harness.errors import LacksError
from harness.verdict import Check, Verdict, failed, passed
from scenarios import demo, info, memalloc


@pytest.mark.triton
def test_info_as_json() -> None:
    done = CliRunner().invoke(cli.main, ["info", "--json", "-"])
    assert done.exit_code == 0
    facts = json.loads(done.output)
    assert facts["triton"]["functions_bound"] + len(facts["triton"]["functions_missing"]) == 172
    assert facts["triton"]["version"].count(".") == 2
    assert facts["triton"]["why"]
    assert facts["shm"]["free"] > 0
    assert facts["gpus"]["devices"] or facts["gpus"]["reason"]


@pytest.mark.triton
def test_info_for_people() -> None:
    done = CliRunner().invoke(cli.main, ["info"])
    assert done.exit_code == 0
    for label in ("Triton", "chosen", "C API", "backends", "caches", "Python stub", "/dev/shm", "CPUs"):
        assert any(line.startswith(label) for line in done.output.splitlines()), label


def test_info_of_no_triton() -> None:
    done = CliRunner().invoke(cli.main, ["info", "--triton", "/nowhere"])
    assert done.exit_code == 2
    assert done.output.startswith("Error: /nowhere")


def test_info_warns_loudly_of_numpy_2() -> None:
    problems = ["NumPy 2.0.0 with a backend built for NumPy 1"]
    facts: dict[str, Any] = {"triton": {"python_backend": {"problems": problems}}}
    assert "NumPy 2.0.0" in info.warnings(facts)[0]


@pytest.mark.triton
def test_info_finds_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    from scenarios import _triton

    monkeypatch.setattr(_triton, "stub_numpy_version", lambda: "2.3.1")
    assert any("NumPy 2.3.1 with a backend" in text for text in info.warnings(info.collect()))


def rows(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"verdict": verdict, "expected": expected} for verdict, expected in pairs]


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([], Verdict.UNKNOWN),
        ([("skipped", "pass")], Verdict.UNKNOWN),
        ([("pass", "pass"), ("skipped", "pass")], Verdict.PASS),
        ([("pass", "pass"), ("fail", "fail")], Verdict.PASS),
        ([("pass", "fail")], Verdict.FAIL),
        ([("fail", "pass")], Verdict.FAIL),
        ([("unknown", "pass"), ("pass", "pass")], Verdict.UNKNOWN),
        ([("unknown", "pass"), ("fail", "pass")], Verdict.FAIL),
    ],
)
def test_demo_total(pairs: list[tuple[str, str]], verdict: Verdict) -> None:
    assert demo.total(rows(*pairs)) == verdict


def test_demo_cases_cover_every_way() -> None:
    one = demo.gpu_cases(1)
    assert len(one) == 2 * 2 * 3 * 4
    assert {demo.known_defect(case) != "" for case in one} == {True, False}
    assert all("gpu:1" in (case["input"], case["output"]) for case in demo.gpu_cases(2)[len(one) :])


def test_demo_counts_a_lack_as_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(_options: dict[str, Any]) -> memalloc.Result:
        raise LacksError("no GPU")

    monkeypatch.setattr(memalloc, "run", lacks)
    assert demo.run_case({"backend": "native"}, {})["verdict"] == "skipped"


def result_with(*checks: Check) -> memalloc.Result:
    return memalloc.Result({}, child.Ended("ended", 0, 1.0, []), list(checks))


def test_demo_knows_the_stub_that_does_not_end() -> None:
    stuck = failed("left over", "the server did not stop within 9 s: m is UNLOADING")
    python: dict[str, Any] = {"backend": "python", "model_device": "gpu:0"}
    assert demo.stuck_stub(python, result_with(passed("values", ""), stuck))
    assert not demo.stuck_stub(python, result_with(failed("values", "wrong"), stuck))
    assert not demo.stuck_stub(python, result_with(failed("left over", "1 request(s) never came back")))
    assert not demo.stuck_stub({"backend": "native", "model_device": "gpu:0"}, result_with(stuck))
    assert not demo.stuck_stub({"backend": "python", "model_device": "cpu"}, result_with(stuck))
