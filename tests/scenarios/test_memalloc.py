"""memalloc on a real Triton: it passes where all is well, and names every fault that is planted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import model_repos
from harness import cli, journal, runner
from harness.processes import until
from harness.scenario import Run
from harness.verdict import overall
from scenarios import memalloc
from scenarios._memalloc_checks import judge, rounds_of

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITONCAPI_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.main, ["memalloc", *words])


def verdict(output: str) -> str:
    return next(line for line in reversed(output.splitlines()) if line.startswith("memalloc: "))


def kept(runs: Path) -> Path:
    (run,) = runs.iterdir()
    return run


def recheck(run: Path, *words: str) -> Result:
    return CliRunner().invoke(cli.main, ["recheck", str(run), *words])


@pytest.mark.parametrize("policy", ["", "numa0"])
@pytest.mark.parametrize("datatype", ["int32", "fp32", "bytes"])
def test_native_backend_passes(datatype: str, policy: str) -> None:
    done = invoke("--datatype", datatype, *(["-h", policy] if policy else []))
    assert done.exit_code == 0, done.output
    assert verdict(done.output).startswith("memalloc: PASS")
    for name in ("values", "placement", "host policy", "allocations", "left over", "log"):
        assert re.search(rf"ok +{name} ", done.output), name


@pytest.mark.parametrize("datatype", ["int32", "fp32", "bytes"])
def test_python_backend_passes(datatype: str) -> None:
    done = invoke("--backend", "python", "--datatype", datatype)
    assert done.exit_code == 0, done.output


def test_python_backend_ignores_host_policies_and_is_caught() -> None:
    done = invoke("--backend", "python", "-h", "numa0")
    assert done.exit_code == 1
    assert "given under numa0 and zeros under the default: the model read the zeros" in done.output


def test_preferred_placement() -> None:
    done = invoke("-o", "preferred")
    assert done.exit_code == 0, done.output
    assert re.search(r"OUTPUT0 +cpu +preferred +cpu +cpu +cpu", done.output)


FAULTS = [
    ("fail_model_init", "model: the model did not load: .*fail_model_init"),
    ("fail_instance_init", "model: the model did not load: .*fail_instance_init"),
    ("fail_execute", "answer: round 1: the model answered with an error: .*fail_execute"),
    ("fail_request", "answer: round 1: the model answered with an error: .*fail_request"),
    ("wrong_values", r"values: round 1, OUTPUT0: 1 of 16 values are wrong; the first at \[0\]: 5 instead of 4"),
    ("zero_output", "values: round 1, OUTPUT0: all 16 values are zero"),
    ("wrong_shape", r"values: .*shape \[1, 32\]"),
    ("wrong_preferred:pinned", "model device: the model computed on cpu and asked for output memory on pinned"),
    ("wrong_reported:pinned", "placement: round 1, OUTPUT0: the response says pinned, the allocator gave cpu"),
    ("wrong_device", "values: round 1, OUTPUT0: the buffer on cpu was never written"),
    ("drop_output", "answer: round 1: the answer lacks OUTPUT1"),
    ("answer_twice", "answer: round 1: 2 responses"),
    ("log_copy_error", "log: Triton logged a copy error: .*failed to copy data"),
    ("crash", "process: Triton crashed with SIGSEGV while inferring"),
    ("abort", "process: Triton crashed with SIGABRT while inferring"),
    ("crash_init", "process: Triton crashed with SIGSEGV while loading the model"),
    ("no_answer", "answer: .*the model released the request and sent no final response"),
    ("never_release", "answer: .*sent its final response and did not release the request"),
    ("hang", "answer: .*neither a final one nor the release"),
    ("hang_finalize", "left over: the server did not stop .*UNLOADING"),
]


@pytest.mark.parametrize(("fault", "sentence"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_planted_faults_are_named(fault: str, sentence: str) -> None:
    done = invoke("--fault", fault, "--timeout", "6")
    assert done.exit_code == 1, done.output
    assert re.match(f"memalloc: FAIL - {sentence}", verdict(done.output)), verdict(done.output)


def test_ignored_host_policy_is_named() -> None:
    done = invoke("--fault", "ignore_host_policy", "-h", "numa0")
    assert done.exit_code == 1
    assert re.search("FAIL +host policy +the real data was given under numa0", done.output)


def test_nothing_stays_behind_but_the_run(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    for words in (["--fault", "crash"], ["--backend", "python"], ["--fault", "hang", "--timeout", "3"]):
        invoke(*words)
    # Others may be running a Triton too: only what bears our names is ours.
    prefixes = [json.loads(path.read_text())["options"]["shm_prefix"] for path in runs.glob("*/run.json")]
    assert len(prefixes) == len(list(runs.iterdir())) == 3
    assert not [entry for prefix in prefixes for entry in Path("/dev/shm").glob(f"{prefix}*")]
    assert list(temporary.iterdir()) == []
    assert not list(runs.glob("*/tmp"))


def test_output_that_cannot_be_written() -> None:
    script = Path(sys.executable).parent / "tritoncapi-harness"
    gone = f"{script} memalloc | true; exit ${{PIPESTATUS[0]}}"
    for command, code in ((gone, 141), (f"{script} info > /dev/full", 4)):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    assert invoke("--json", "/dev/full").exit_code == 4


def test_json_holds_everything(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert invoke("--json", str(path), "-h", "numa0").exit_code == 0
    result = json.loads(path.read_text())
    assert result["verdict"] == "pass"
    assert {check["name"] for check in result["checks"]} >= {"values", "placement", "host policy", "allocations"}
    assert result["options"]["host_policy"] == "numa0"
    assert any(event["event"] == "allocation" for event in result["journal"])
    assert result["sentence"].startswith("inputs on cpu, outputs on cpu under host policy numa0")
    assert (result["exit_code"], result["process"]["how"], result["process"]["leftovers"]) == (0, "ended", [])
    assert result["log"]
    assert isinstance(result["errors"], list)
    done = invoke("--json", "-")
    assert json.loads(done.output)["verdict"] == "pass"


# Kept runs


def test_a_passed_run_is_kept_and_judged_again(runs: Path) -> None:
    done = invoke("-h", "numa0")
    again = recheck(kept(runs))
    assert (done.exit_code, again.exit_code) == (0, 0)
    assert again.output == done.output  # the tensors' ways and the pass's own sentence too
    described = json.loads((kept(runs) / "run.json").read_text())
    assert (described["scenario"], described["options"]["host_policy"]) == ("memalloc", "numa0")
    assert described["versions"]["tritoncapi-harness"]


def test_a_failed_run_is_judged_again(runs: Path) -> None:
    done = invoke("--fault", "fail_execute")
    again = recheck(kept(runs))
    assert (done.exit_code, again.exit_code) == (1, 1)
    assert again.output == done.output
    facts = json.loads(recheck(kept(runs), "--json", "-").output)
    assert (facts["verdict"], facts["exit_code"]) == ("fail", 1)
    assert "fail_execute" in facts["sentence"]


def test_a_crash_is_kept(runs: Path) -> None:
    done = invoke("--fault", "crash")
    run = kept(runs)
    assert json.loads((run / "ended.json").read_text())["signal"] == "SIGSEGV"
    assert "Segmentation fault" in (run / "stacks.txt").read_text()
    assert (run / "triton.log").stat().st_size
    assert verdict(recheck(run).output) == verdict(done.output)


def test_last_warnings_are_shown_on_failure_only() -> None:
    title = "Last warnings and errors of Triton's log:"
    failed = invoke("--fault", "fail_instance_init").output
    assert "fail_instance_init" in failed[failed.index(title) :]
    assert title not in invoke().output
    assert "\nTriton's log:\n" in invoke("-v").output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_was_measured(runs: Path, number: signal.Signals) -> None:
    script = Path(sys.executable).parent / "tritoncapi-harness"
    process = subprocess.Popen([script, "memalloc", "--fault", "hang"], stdout=subprocess.PIPE)

    def phases() -> list[str]:
        events = [event for path in runs.glob("*/journal.jsonl") for event in journal.read(path)]
        return [event["name"] for event in journal.all_of(events, "phase")]

    assert until(lambda: "inferring (1 of 2)" in phases(), 30)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert f"interrupted; what was measured is in {kept(runs)}" in out.decode()
    again = recheck(kept(runs))
    assert again.exit_code == 3
    assert "the run was cut off while inferring (1 of 2)" in verdict(again.output)
    assert re.search("ok +model ", again.output)
    assert re.search("ok +log ", again.output)


def test_interrupted_before_it_began_keeps_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> runner.Result:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        done = invoke()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.exit_code, done.output) == (3, "memalloc: UNKNOWN - interrupted before the run began\n")
    assert list(runs.iterdir()) == []


def test_quiet_is_one_line(runs: Path) -> None:
    done = invoke("-q")
    sentence = "inputs on cpu, outputs on cpu: every value and every place is right"
    assert done.output == f"memalloc: PASS - {sentence}\n"
    assert kept(runs).is_dir()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_files_are_written_whatever_becomes_of_the_output(tmp_path: Path, runs: Path) -> None:
    script = Path(sys.executable).parent / "tritoncapi-harness"
    for number, (fault, where, code) in enumerate(
        [("", "| head -c 1; exit ${PIPESTATUS[0]}", 141), ("--fault wrong_values", "> /dev/full", 1)]
    ):
        made = [tmp_path / f"{number}.{kind}" for kind in ("json", "html", "xml")]
        files = " ".join(f"--{kind} {path}" for kind, path in zip(("json", "html", "junit"), made, strict=True))
        command = f"{script} memalloc {fault} {files} {where}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
        assert done.returncode == code, done.stderr
        assert all(path.stat().st_size > 1000 for path in made)


def test_in_process(runs: Path) -> None:
    script = Path(sys.executable).parent / "tritoncapi-harness"
    done = subprocess.run([script, "memalloc", "-q", "--in-process"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("memalloc: PASS"), done.stdout + done.stderr
    assert recheck(kept(runs)).exit_code == 0


def test_runs_in_a_place_that_cannot_be_written() -> None:
    done = invoke("--runs", "/proc/runs")
    assert done.exit_code == 2
    assert done.output.startswith("Error: --runs /proc/runs: no run can be kept there: ")
    assert len(done.output.splitlines()) == 1


def test_what_was_not_run_is_not_kept(runs: Path) -> None:
    assert invoke("--triton", "/nowhere").exit_code == 2  # only the child finds out
    assert list(runs.iterdir()) == []


def test_no_line_ends_in_spaces() -> None:
    for words in ([], ["-v"], ["--fault", "crash"]):
        assert not [line for line in invoke(*words).output.splitlines() if line != line.rstrip()]


# Bad input


def own_repository(folder: Path, **changes: str) -> Path:
    model_repos.copy_model(model_repos.folder("memalloc") / "add_sub_int32_native", folder, name="mine")
    config = folder / "mine" / "config.pbtxt"
    text = config.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    config.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-i", "gpu"], "'gpu' is no place"),
        (["-o", "-2"], "is no place"),
        (["-i", "preferred"], "is no place"),
        (["-r", "/nowhere"], "-r and -m go together"),
        (["-m", "x"], "-r and -m go together"),
        (["-r", "/nowhere", "-m", "x"], "-r /nowhere: there is no such directory"),
        (["--fault", "crash", "--backend", "python"], "--fault needs --backend native"),
        (["--fault", "nonsense"], "unknown fault 'nonsense'"),
        (["--model-device", "pinned"], "a model computes on cpu or gpu:N"),
        (["--datatype", "int8"], "int8"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "-3"], "--timeout"),
        (["--timeout", "nan"], "--timeout"),
        (["--timeout", "inf"], "--timeout"),
        (["--triton", ""], "--triton is empty"),
        (["-h", ""], "--host-policy is empty"),
        (["-r", "", "-m", ""], "--repository is empty"),
        (["--fault", "leak_fd"], "two requests show no leak"),
        (["--fault", "ignore_host_policy"], "shows only with -h"),
        (["--triton", "/nowhere"], "/nowhere"),
        (["--json", "/nowhere/x.json"], "cannot be written"),
    ],
)
def test_bad_options(words: list[str], text: str) -> None:
    done = invoke(*words)
    assert done.exit_code == 2, done.output
    assert text in done.output
    assert "Traceback" not in done.output


def test_own_model_and_backend_library_beside_it(tmp_path: Path) -> None:
    own_repository(tmp_path)
    library = model_repos.backend_library()
    shutil.copy(library, tmp_path / "mine" / library.name)
    done = invoke("-r", str(tmp_path), "-m", "mine", "-h", "cpu")
    assert done.exit_code == 0, done.output


def test_own_backend_under_a_name_of_its_own(tmp_path: Path) -> None:
    own_repository(tmp_path, tritoncapi_test="my_own")
    shutil.copy(model_repos.backend_library(), tmp_path / "mine" / "libtriton_my_own.so")
    done = invoke("-r", str(tmp_path), "-m", "mine")
    assert done.exit_code == 0, done.output
    assert "backend my_own" in done.output


def test_unknown_model_lists_what_is_there(tmp_path: Path) -> None:
    own_repository(tmp_path)
    done = invoke("-r", str(tmp_path), "-m", "yours")
    assert done.exit_code == 2
    assert "it has mine" in done.output


def test_policy_that_the_model_does_not_have(tmp_path: Path) -> None:
    done = invoke("-r", str(own_repository(tmp_path)), "-m", "mine", "-h", "numa7")
    assert done.exit_code == 2, done.output
    assert "no instance has the host policy numa7; its policies: cpu" in done.output


def test_model_that_is_no_add_sub(tmp_path: Path) -> None:
    done = invoke("-r", str(own_repository(tmp_path, OUTPUT1="OTHER")), "-m", "mine")
    assert done.exit_code == 2, done.output
    assert "memalloc needs inputs INPUT0, INPUT1, outputs OUTPUT0" in done.output


def test_config_that_cannot_be_parsed_fails_with_the_reason(tmp_path: Path) -> None:
    done = invoke("-r", str(own_repository(tmp_path, max_batch_size="max_bunch_size")), "-m", "mine")
    assert done.exit_code == 1
    assert "max_bunch_size" in done.output
    assert verdict(done.output).startswith("memalloc: FAIL - model: the model did not load")


def test_config_that_is_no_text(tmp_path: Path) -> None:
    own_repository(tmp_path)
    (tmp_path / "mine" / "config.pbtxt").write_bytes(b"\xff\xfe\x00binary")
    done = invoke("-r", str(tmp_path), "-m", "mine")
    assert done.exit_code == 2
    assert "config.pbtxt is no text file" in done.output


def test_triton_that_is_none(tmp_path: Path) -> None:
    text = tmp_path / "libtritonserver.so"
    text.write_text("not a library")
    foreign = tmp_path / "foreign.so"
    foreign.write_bytes(b"\x7fELF" + bytes([2, 1, 1]) + bytes(9) + struct.pack("<HH", 3, 243) + bytes(64))
    for path, reason in ((tmp_path / "x", "does not exist"), (text, "not an ELF file"), (foreign, "is built for")):
        done = invoke("--triton", str(path))
        assert done.exit_code == 2
        assert reason in done.output
        assert len(done.output.splitlines()) == 1


def test_missing_gpu_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for words in (["-i", "0"], ["-o", "gpu:1"], ["-i", "pinned"], ["--model-device", "gpu:0"]):
        done = invoke(*words)
        assert done.exit_code == 4, done.output
        assert len(done.output.splitlines()) == 1
        assert "needs a CUDA device" in done.output


def lack(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> str:
    from harness.errors import LacksError
    from scenarios import _triton
    from tritoncapi import load

    monkeypatch.setattr(_triton, name, value)
    with pytest.raises(LacksError) as caught:
        _triton.require_python_backend(load())
    return str(caught.value)


def test_numpy_2_in_the_stub_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NumPy 2.1.0 and this Python backend was built for NumPy 1" in lack(
        monkeypatch, "stub_numpy_version", lambda: "2.1.0"
    )


def test_stub_without_numpy_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has no NumPy" in lack(monkeypatch, "stub_numpy_version", lambda: None)


def test_own_python_model_in_a_path_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    model_repos.copy_model(model_repos.folder("memalloc") / "add_sub_int32_python", folder, name="py")
    done = invoke("-r", str(folder), "-m", "py")
    assert done.exit_code == 2, done.output
    assert "the Python backend hangs or aborts on spaces" in done.output


def test_missing_backend_is_no_copy_error(tmp_path: Path) -> None:
    done = invoke("-r", str(own_repository(tmp_path, tritoncapi_test="nosuch")), "-m", "mine")
    assert done.exit_code == 1
    assert verdict(done.output).startswith("memalloc: FAIL - model: the model did not load")


def test_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert invoke().exit_code == 0


def test_paths_that_the_python_backend_cannot_take() -> None:
    from harness.errors import UsageError
    from scenarios import _triton
    from tritoncapi import load

    with pytest.raises(UsageError, match="hangs or aborts on spaces"):
        _triton.require_python_backend(load(), Path("/a b"))


def test_small_shm_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "/dev/shm has" in lack(monkeypatch, "SHM_NEEDED", 1 << 60)


# The checks by themselves, on a journal in which something is wrong


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("healthy")
    return runner.run("scenarios.memalloc:build", memalloc.complete({}), folder, timeout=60).run


def found(run: Run, **changes: Any) -> dict[str, str]:
    checks = judge(replace(run, ended=replace(run.ended, **changes)))
    return {check.name: f"{check.verdict.value}: {check.sentence}" for check in checks}


def judged(run: Run, name: str, **changes: Any) -> dict[str, str]:
    """With all events of this name changed; ``round`` is what an operation says came back."""

    def changed(event: journal.Event) -> journal.Event:
        if name == "round" and event["event"] == "op":
            return {**event, "event": changes.get("event", "op"), "value": {**event["value"], **changes}}
        return {**event, **changes} if event["event"] == name else event

    events = [changed(event) for event in run.ended.events]
    return found(run, events=[event for event in events if event["event"] != "dropped"])


@pytest.mark.parametrize(
    ("event", "changes", "check", "sentence"),
    [
        ("ledger", {"live": 2, "live_bytes": 128}, "allocations", "fail: 2 buffers .128 bytes. were never released"),
        ("ledger", {"double_releases": 1}, "allocations", "fail: 1 buffers were released twice"),
        ("ledger", {"mismatched": 1}, "allocations", "fail: 1 releases named another"),
        ("ledger", {"free_failures": 1}, "allocations", "fail: 1 buffers could not be freed"),
        ("ledger", {"allocations": 0}, "allocations", "skipped: nothing was allocated"),
        ("allocation", {"actual": "pinned"}, "placement", "fail: .*says cpu, the allocator gave pinned"),
        ("allocation", {"address": 1}, "placement", "fail: .*none that the allocator gave"),
        ("allocation", {"preferred": "gpu:1"}, "model device", "fail: .*asked for output memory on gpu:1"),
        ("server", {"ready": False}, "server", "fail: .*ready: no"),
        ("model", {"ready": False}, "model", "fail: .*ready: no"),
        ("calls", {"open": 1}, "left over", "fail: 1 request.s. never came back"),
        ("calls", {"strays": 2}, "left over", "fail: 2 response.s. came after"),
        ("stop", {"text": "it would not"}, "left over", "fail: it would not"),
        ("round", {"responses": 0}, "answer", "fail: .*0 responses"),
        ("round", {"tensors": []}, "answer", "fail: .*lacks OUTPUT0"),
        ("round", {"tensors": []}, "values", "skipped"),
        ("round", {"event": "dropped"}, "answer", "unknown: no request was answered"),
        ("end", {"event": "dropped"}, "process", "fail: the run ended early with code 0"),
    ],
)
def test_checks_see_what_is_wrong(healthy: Run, event: str, changes: dict[str, Any], check: str, sentence: str) -> None:
    checks = judged(healthy, event, **changes)
    assert re.match(sentence, checks[check]), checks


def test_unwritten_output_is_told_from_zeros(healthy: Run) -> None:
    tensors = [{**tensor, "unwritten": True, "wrong": 16} for tensor in rounds_of(healthy)[-1]["tensors"]]
    assert "was never written" in judged(healthy, "round", tensors=tensors)["values"]


def test_silent_log_is_unknown(healthy: Run) -> None:
    assert found(healthy, log=[])["log"].startswith("unknown")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"event": "dropped"}, "1 of 2 requests were answered"),
        ({"kind": "unknown", "value": {}, "text": "KeyError: 'x'"}, "round 2: KeyError: 'x'"),
    ],
)
def test_a_round_of_which_nothing_is_known_is_no_pass(healthy: Run, changes: dict[str, Any], text: str) -> None:
    second = healthy.operations[1]
    events = [event | changes if event == second else event for event in healthy.ended.events]
    checks = judge(replace(healthy, ended=replace(healthy.ended, events=events)))
    assert (overall(checks), [check.sentence for check in checks if check.verdict == "unknown"]) == ("unknown", [text])


@pytest.mark.parametrize(
    "line",
    [
        'E1120 "failed to copy data: invalid argument"',
        "E1120 Failed to copy the input tensor to shared memory",
        'W1120 "cudaMemcpy failed"',
        "an illegal memory access was encountered",
    ],
)
def test_copy_errors_in_the_log_are_seen(healthy: Run, line: str) -> None:
    for name in ("log", "errors"):
        log = found(healthy, **{name: [*healthy.ended.log, line]})["log"]
        assert log.startswith("fail")
        assert line in log


def test_timeout_bounds_the_whole_run() -> None:
    began = time.monotonic()
    done = invoke("--fault", "hang", "--timeout", "3")
    assert done.exit_code == 1
    assert time.monotonic() - began < 60
