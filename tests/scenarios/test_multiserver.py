"""multiserver on a real Triton: servers truly at once, and every planted fault found and named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import model_repos
import tritoncapi as tc
from harness import cli, journal, runner
from harness.errors import UsageError
from harness.processes import text, until
from harness.sampler import Sampler
from harness.scenario import Context, Run
from model_repos import faults
from scenarios import _multiserver_checks as checks
from scenarios import multiserver
from scenarios._multiserver_fleet import Fleet

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONCAPI_RUNS", str(tmp_path / "runs"))


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.main, ["multiserver", *words])


def last_line(output: str, begins: str = "multiserver: ") -> str:
    return next(line for line in reversed(output.splitlines()) if line.startswith(begins))


def test_servers_are_alive_at_once_and_nothing_is_left(tmp_path: Path) -> None:
    done = invoke("-t", "4", "-l", "10")
    assert done.exit_code == 0, done.output
    assert "peak 4" in done.output
    for name in ("concurrency", "values", "versions", "isolation", "statistics", "growth of heap_in_use", "zombies"):
        assert re.search(rf"ok +{name} ", done.output), name
    (run,) = (tmp_path / "runs").iterdir()
    again = CliRunner().invoke(cli.main, ["recheck", str(run)])
    assert again.exit_code == 0
    assert last_line(again.output) == last_line(done.output)
    described = json.loads((run / "run.json").read_text())
    assert described["options"]["threads"] == 4
    assert described["versions"]["tritoncapi-harness"]


@pytest.mark.parametrize("backend", ["python", "mixed"])
def test_python_backend(backend: str) -> None:
    done = invoke("-t", "2", "-l", "2", "--backend", backend, "--no-probes")
    assert done.exit_code == 0, done.output


def test_duration_with_churn() -> None:
    done = invoke("-t", "3", "--duration", "2s", "--churn", "0.05", "--stagger", "0.01", "--seed", "7", "--no-probes")
    assert done.exit_code == 0, done.output


FAULTS = [
    ("leak_host_load:1000000", [], "growth of heap_in_use: heap in use grows by 9.. KiB a life cycle"),
    ("leak_fd_load", [], "growth of descriptors: the number of open descriptors grows by 1 a life cycle"),
    ("crash", ["--fault-thread", "3"], r"process: Triton crashed with SIGSEGV while running .*thread 3 loop 0"),
    ("hang_finalize", ["--fault-thread", "3", "--stop-timeout", "2"], "life cycles: 1 of .* thread 3, loop 0: unload"),
    ("wrong_values", ["--fault-thread", "2"], "life cycles: 12 of 48 failed; thread 2, loop 0: values: simple4"),
    ("fail_execute", ["--fault-thread", "2"], "life cycles: 12 of 48 failed; thread 2, .*planted fault: fail_execute"),
]


@pytest.mark.parametrize(("fault", "more", "sentence"), FAULTS, ids=[fault for fault, _, _ in FAULTS])
def test_planted_faults_are_named(fault: str, more: list[str], sentence: str) -> None:
    done = invoke("-t", "4", "-l", "12", "--fault", fault, *more)
    assert done.exit_code == 1, done.output
    assert re.match(f"multiserver: FAIL - {sentence}", last_line(done.output)), last_line(done.output)


def test_fault_that_never_shows_is_no_pass() -> None:
    done = invoke("-t", "2", "-l", "2", "--fault", "fail_request:7", "--no-probes")  # three requests a life cycle
    assert done.exit_code == 3, done.output
    assert "fail_request:7 was planted, and no check saw anything of it" in done.output


def test_killed_stub_leaves_the_others_serving(tmp_path: Path) -> None:
    done = invoke("-t", "3", "-l", "2", "--backend", "mixed", "--fault", "kill_stub", "--stop-timeout", "2")
    assert done.exit_code == 1, done.output
    assert re.search(r"FAIL life cycles .*thread 1, loop 0: .*Stub process 'simple3_0_0' is not healthy", done.output)
    assert re.search(r"ok +containment +thread 1 failed alone: [45] life cycles of others", done.output), done.output
    (run,) = (tmp_path / "runs").iterdir()
    (struck,) = journal.all_of(journal.read(run / "journal.jsonl"), "struck")
    assert (struck["worker"], struck["loop"]) == (1, 0)
    assert not list(Path("/dev/shm").glob(runner.judge(run).run.options["shm_prefix"] + "*"))


def test_metrics_of_triton_are_sampled(tmp_path: Path) -> None:
    assert invoke("-t", "2", "--duration", "2s").exit_code == 0
    (run,) = (tmp_path / "runs").iterdir()
    samples = journal_lines(run / "samples.jsonl")
    # What they say is luck: Triton forgets a model's counts with the model, and these live for milliseconds.
    assert any("nv_inference_count" in sample for sample in samples)
    assert all("cost_ns" in sample for sample in samples)


def test_sampled_metrics_are_those_of_living_servers(server: tc.Server, backends: Path, tmp_path: Path) -> None:
    options = {"memory": "system", "probes": True, "shm_prefix": "none_"}
    fleet = Fleet(server.library, options, [], True, backends, 0, threading.Barrier(1))
    context = Context(options, journal.Journal(tmp_path / "journal.jsonl"), tmp_path)
    with Sampler(multiserver.probes(context, fleet), interval=None) as sampler:
        assert "nv_inference_count" in sampler.sample_now("none lives")["missing"]
        fleet.entered(0, server)
        before = sampler.sample_now("before")["nv_inference_count"]
        server.infer("add_sub", {name: np.ones(16, np.int32) for name in ("INPUT0", "INPUT1")}).close()
        # Triton answers first and counts then.
        assert until(lambda: sampler.sample_now("after")["nv_inference_count"] == before + 1, 20)
        fleet.left(0)
    context.journal.close()


def journal_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-t", "0"], "-t"),
        (["-l", "0"], "-l"),
        (["-m", "vram"], "vram"),
        (["-r", "/tmp"], "9 repositories are due for -t 8, got 1"),
        (["-t", "1", "-r", "/nowhere", "-r", "/nowhere"], "there is no such directory"),
        (["--timeout", "nan"], "--timeout"),
        (["--duration", "soon"], "'soon' is no duration"),
        (["-l", "3", "--duration", "1m"], "give one of them, a number of loops or a time"),
        (["--churn", "1s"], "--churn needs --duration"),
        (["--fault-thread", "1"], "--fault-thread needs --fault"),
        (["--fault", "crash", "--fault-thread", "8"], "the threads are 0 to 7"),
        (["--fault", "crash", "--backend", "python"], "--fault crash needs a native model"),
        (["--fault", "crash", "--backend", "mixed", "--fault-thread", "1"], "--fault crash needs a native model"),
        (["--fault", "kill_stub:3"], "takes no value and stands alone"),
        (["--fault", "leak_fd", "-l", "2"], "a leak is judged from -l 10 on"),
        (["--fault", "leak_fd", "--no-probes"], "a leak is judged from -l 10 on, and with probes"),
        (["-r", ""], "-r is empty"),
        (["--runs", ""], "name a folder for the runs"),
        (["--stop-timeout", "1e12"], "--stop-timeout"),
        (["--stop-timeout", "nan"], "--stop-timeout"),
        (["--stagger", "30", "--timeout", "3"], "longer than --timeout"),
        (["--stagger", "10", "--duration", "20s"], "begin after --duration is over"),
        (["--fault", "crsh"], "unknown fault 'crsh'; the known ones are"),
        (["--fault", "leak_host"], "it is written leak_host:bytes"),
        (["--fault", "ignore_host_policy"], "multiserver does not see it"),
        (["--fault", "leak_gpu_load:4096"], "needs -m gpu"),
        (["--fault", "kill_stub"], "native models have no stub"),
        (["--fault", "kill_stub", "--backend", "mixed", "--fault-thread", "2"], "only odd threads"),
        (["--duration", "10m", "--timeout", "60"], "--timeout 60 would end the run before --duration 10m"),
        (["--runs", "/proc/runs"], "no run can be kept there"),
        (["--triton", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input(words: list[str], text: str) -> None:
    done = invoke(*words)
    assert done.exit_code == 2, done.output
    assert text in done.output
    assert "Traceback" not in done.output


def test_missing_gpu_is_a_lack_and_keeps_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for memory in ("gpu", "pinned"):
        done = invoke("-m", memory)
        assert done.exit_code == 4
        assert f"-m {memory} needs a CUDA device" in done.output
    assert not list((tmp_path / "runs").iterdir())


def own_repositories(folder: Path, names: list[str]) -> list[str]:
    for name in names:
        model_repos.copy_model(model_repos.folder("memalloc") / "add_sub_int32_native", folder / name, name=name)
    return [word for name in names for word in ("-r", str(folder / name))]


def test_repositories_of_ones_own(tmp_path: Path) -> None:
    words = own_repositories(tmp_path / "own", ["simple1", "simple2", "simple3"])
    done = invoke("-t", "2", "-l", "3", "--no-probes", *words)
    assert done.exit_code == 0, done.output
    assert re.search("- +versions", done.output)


def test_repository_without_its_model(tmp_path: Path) -> None:
    words = own_repositories(tmp_path / "own", ["simple1", "other"])
    done = invoke("-t", "1", *words)
    assert done.exit_code == 2
    assert "there is no model simple2 in it" in done.output


PHASES = ["starting up", "loading libtritonserver", "preparing the repositories", "running"]


@pytest.mark.parametrize("backend", ["native", "python"])
@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_in_every_phase(tmp_path: Path, backend: str, phase: str) -> None:
    script = Path(sys.executable).parent / "multiserver"
    runs = tmp_path / "stopped"
    words = ["-t", "2", "--duration", "60s", "--backend", backend, "--runs", str(runs)]
    before = {*Path("/dev/shm").glob(f"tritoncapi_{os.getpid()}_*")}
    process = subprocess.Popen([script, *words], stdout=subprocess.PIPE)

    def reached() -> bool:
        if phase == "starting up":
            return any(runs.glob("*/run.json"))
        events = [event for path in runs.glob("*/journal.jsonl") for event in journal.read(path)]
        return any(event["name"] == phase for event in journal.all_of(events, "phase"))

    assert until(reached, 30)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert b"interrupted; what was measured is in" in out
    (run,) = runs.iterdir()
    assert runner.judge(run).verdict == "unknown"
    assert not (run / "tmp").exists()
    assert {*Path("/dev/shm").glob(f"tritoncapi_{process.pid}_*")} == before == set()
    assert not users_of(str(run))


def users_of(folder: str) -> list[str]:
    commands = [text(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [command for command in commands if folder in command]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_end_of_the_command_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    script = Path(sys.executable).parent / "multiserver"
    runs = tmp_path / "killed"
    process = subprocess.Popen([script, "-t", "2", "--duration", "60s", "--runs", str(runs)], stdout=subprocess.PIPE)

    def history() -> list[journal.Event]:
        return [event for path in runs.glob("*/journal.jsonl") for event in journal.read(path)]

    assert until(lambda: len(journal.all_of(history(), "op")) > 4, 30)
    mine = f"/{process.pid}/"
    children = [int(pid) for pid in Path(f"/proc{mine}task{mine}children").read_text().split()]
    assert children
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=30)
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10)
    (run,) = runs.iterdir()
    if number == signal.SIGKILL:
        assert runner.judge(run).verdict == "unknown"
    else:
        assert process.returncode == 3
        assert b"interrupted" in out
    assert journal.all_of(journal.read(run / "journal.jsonl"), "op")


def test_in_process(tmp_path: Path) -> None:
    code = "from scenarios.multiserver import main; main()"
    words = ["-t", "2", "-l", "2", "--in-process", "--no-probes", "-q", "--runs", str(tmp_path / "r")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("multiserver: PASS")


# The checks by themselves


def op(worker: int, number: int, begin: int, end: int, **value: Any) -> dict[str, Any]:
    return {
        "event": "op",
        "worker": worker,
        "number": number,
        "kind": "fail" if value.get("problems") else "ok",
        "start_ns": begin,
        "time_ns": end,
        "text": "",
        "value": {"alive": [begin, end], "problems": [], "requests": 6, **value},
    }


def run_of(*operations: dict[str, Any], **options: Any) -> Run:
    from harness.child import Ended

    full = {"threads": 2, "loops": 1, "duration": None, "repositories": [], "memory": "system", "probes": True}
    full |= options
    return Run(full, Ended("ended", 0, 1.0, list(operations)))


def test_servers_one_after_the_other_are_not_concurrent() -> None:
    (check,) = checks.concurrency(run_of(op(0, 0, 0, 10), op(1, 0, 11, 20)))
    assert check.verdict == "fail"
    assert "only 1 servers were alive at once" in check.sentence
    (check,) = checks.concurrency(run_of(op(0, 0, 0, 10), op(1, 0, 5, 20)))
    assert check.verdict == "pass"


def test_no_life_cycle_is_unknown() -> None:
    assert [check.verdict for check in checks.life_cycles(run_of())] == ["unknown"]
    assert [check.verdict for check in checks.life_cycles(run_of(op(0, 0, 0, 1)))] == ["unknown"]
    lost = {**op(1, 0, 0, 1), "kind": "unknown", "text": "its server would not stop"}
    assert [check.verdict for check in checks.life_cycles(run_of(op(0, 0, 0, 1), lost))] == ["unknown"]


def test_each_problem_has_its_check() -> None:
    bad = op(1, 0, 0, 1, problems=[["isolation", "simple3 was ready"], ["isolation", "again"]])
    found = {check.name: check for check in checks.problems(run_of(op(0, 0, 0, 1), bad))}
    assert found["isolation"].verdict == "fail"
    assert found["isolation"].sentence == "thread 1, loop 0: simple3 was ready (and 1 more)"
    assert found["values"].verdict == "pass"


def test_without_an_answer_no_value_is_right() -> None:
    bad = op(0, 0, 0, 1, requests=0, problems=[["life cycle", "no server"]])
    found = {check.name: check.verdict for check in checks.problems(run_of(bad))}
    assert {found[name] for name in ("values", "placement", "versions", "statistics")} == {"unknown"}


def test_containment() -> None:
    planted = {"fault": "crash", "fault_thread": 1}
    bad = op(1, 0, 0, 5, problems=[["values", "wrong"]])
    late, early = op(0, 0, 0, 9), {**op(0, 0, -9, -1)}
    names = [
        ([late, bad], "pass", "thread 1 failed alone: 1 life cycles"),
        ([early, bad], "unknown", "no other thread's life cycle ended after"),
        ([late], "unknown", "never showed"),
        ([op(0, 0, 0, 9, problems=[["values", "wrong"]]), bad], "fail", "took 1 life cycles of other threads with it"),
    ]
    for operations, verdict, sentence in names:
        (check,) = checks.containment(run_of(*operations, **planted))
        assert check.verdict == verdict
        assert sentence in check.sentence
    assert checks.containment(run_of(late, fault=None, fault_thread=None)) == []


def test_known_faults_are_those_of_the_backend() -> None:
    source = (Path(model_repos.__file__).parent / "backend" / "faults.c").read_text()
    rules = {"NO_VALUE": "", "OPTIONAL_PERIOD": "[:k]", "BYTE_COUNT": ":bytes", "MEMORY": ":cpu|pinned|gpu"}
    rules |= {"OPTIONAL_MEMORY": "[:cpu|pinned|gpu]", "OPTIONAL_DATATYPE": "[:datatype]"}
    table = dict(re.findall(r'= \{"(\w+)", (\w+)\}', source))
    assert table
    assert {name: rules[rule] for name, rule in table.items()} == faults.FAULTS
    assert faults.names("crash, leak_host:4096,fail_request:3") == ["crash", "leak_host", "fail_request"]
    assert faults.names("wrong_values,wrong_values:fp32,wrong_device:gpu,wrong_device") == 2 * ["wrong_values"] + 2 * [
        "wrong_device"
    ]
    for wrong in ("", "crash,,hang", "crash:1", "leak_host", "leak_host:0", "wrong_reported:disk", "wrong_values:text"):
        with pytest.raises(ValueError, match="fault"):
            faults.names(wrong)


def test_gpu_memory_that_stays_is_found() -> None:
    samples = [{"label": "settled", "cycles": n, "gpu_process_bytes": 1e9 + n * 3e6, "zombies": 0} for n in range(8)]
    run = Run({**run_of().options, "memory": "gpu", "loops": 20}, run_of().ended, samples)
    found = {check.name: check.verdict for check in checks.leaks(run)}
    assert found["growth of gpu_process_bytes"] == "fail"
    assert found["level of gpu_process_bytes"] == "fail"


def test_durations() -> None:
    assert [multiserver.seconds(text) for text in ("90", "1.5s", "10m", "2h")] == [90, 1.5, 600, 7200]
    with pytest.raises(UsageError):
        multiserver.seconds("0s")
