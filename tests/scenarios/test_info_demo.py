"""info and demo: what they show, and how they judge."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tritoncapi as tc
from harness import child, cli, runner
from harness.errors import LacksError
from harness.verdict import Verdict, failed, passed
from scenarios import demo, info


@pytest.mark.triton
def test_info_as_json() -> None:
    done = CliRunner().invoke(cli.main, ["info", "--json", "-"])
    assert done.exit_code == 0
    facts = json.loads(done.output)
    assert facts["triton"]["functions_bound"] + len(facts["triton"]["functions_missing"]) == 172
    assert facts["triton"]["version"].count(".") == 2
    assert facts["triton"]["why"]
    assert facts["shm"]["free"] > 0
    assert facts["exit_code"] == 0
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


@pytest.mark.triton
def test_info_survives_a_triton_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "libtritonserver.so"
    with tc.find().library.open("rb") as file:
        path.write_bytes(file.read(1_000_000))
    script = Path(sys.executable).parent / "tritoncapi-harness"
    done = subprocess.run([script, "info", "--triton", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"Error: {path} is cut short \(1000000 of \d+ .*; copy or install it again\n", done.stderr)


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
    def lacks(*_: object, **__: object) -> runner.Result:
        raise LacksError("no GPU")

    monkeypatch.setattr(runner, "run", lacks)
    assert demo.run_case(demo.make_case("native"), {})["verdict"] == "skipped"


def test_demo_knows_the_stub_that_does_not_end() -> None:
    stuck = failed("left over", "the server did not stop within 9 s: m is UNLOADING")
    python: dict[str, Any] = {"backend": "python", "model_device": "gpu:0"}
    assert demo.stuck_stub(python, [passed("values", ""), stuck])
    assert not demo.stuck_stub(python, [failed("values", "wrong"), stuck])
    assert not demo.stuck_stub(python, [failed("left over", "1 request(s) never came back")])
    assert not demo.stuck_stub({"backend": "native", "model_device": "gpu:0"}, [stuck])
    assert not demo.stuck_stub({"backend": "python", "model_device": "cpu"}, [stuck])


def test_every_case_has_the_same_keys() -> None:
    assert len({tuple(case) for case in [*demo.cpu_cases(), *demo.gpu_cases(2)]}) == 1


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "cpu_cases", lambda: [demo.make_case("native")])


@pytest.mark.triton
@pytest.mark.usefixtures("one_case")
def test_demo_says_the_same_in_json_and_keeps_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    done = CliRunner().invoke(cli.main, ["demo", "--no-gpu", "--json", "-"])
    facts = json.loads(done.output)
    assert list(facts) == ["info", "rows", "verdict", "exit_code", "sentence"]
    assert (done.exit_code, facts["exit_code"], facts["verdict"]) == (0, 0, "pass")
    assert facts["sentence"] == "1 of 1 cases ran"
    shown = CliRunner().invoke(cli.main, ["demo", "--no-gpu"]).output
    assert "demo: PASS - 1 of 1 cases ran" in shown
    assert not [line for line in shown.splitlines() if line != line.rstrip()]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.triton
@pytest.mark.usefixtures("one_case")
def test_interrupted_demo_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> runner.Result:
        raise child.Interrupted

    monkeypatch.setattr(runner, "run", interrupted)
    done = CliRunner().invoke(cli.main, ["demo", "--no-gpu", "--json", "-"])
    facts = json.loads(done.output)
    assert (done.exit_code, facts["exit_code"], facts["verdict"]) == (3, 3, "unknown")
    assert facts["sentence"] == "interrupted after 0 of 1 cases"
