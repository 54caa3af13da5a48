"""perf on a real Triton: the C API, HTTP and gRPC; every planted fault found and named, nothing left behind."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import model_repos
import tritoncapi as tc
from harness import cli, journal, roles
from harness.errors import LacksError
from harness.processes import text, until
from scenarios import _perf_checks, _perf_clients, _perf_server, _perf_table
from scenarios._perf_run import SideDied

pytestmark = pytest.mark.triton
SHORT = ("--warmup", "50ms")


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: tc.Library) -> None:
    monkeypatch.setenv("TRITONCAPI_RUNS", str(tmp_path / "runs"))


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.main, ["perf", *SHORT, *words])


def last_line(output: str) -> str:
    return next(line for line in reversed(output.splitlines()) if line.startswith("perf: "))


def newest(tmp_path: Path) -> Path:
    return max((path for path in (tmp_path / "runs").iterdir() if (path / "run.json").exists()), key=os.path.getmtime)


def steps_of(tmp_path: Path) -> list[dict[str, Any]]:
    return journal.all_of(journal.read(newest(tmp_path) / "journal.jsonl"), "step")


def needs_server(library: tc.Library, protocol: str) -> None:
    if protocol == "c-api":
        return
    if library.triton.server is None or importlib.util.find_spec("tritonclient") is None:
        pytest.skip("needs a tritonserver program and tritonclient")


FIELDS = {
    *("protocol", "model", "concurrency", "rate", "throughput", "percentiles_us", "histogram_ns", "series"),
    *("windows", "stable", "errors", "server", "cpu", "peak_rss"),
}


@pytest.mark.parametrize("protocol", ["c-api", "http", "grpc"])
def test_a_step_says_everything(tmp_path: Path, library: tc.Library, protocol: str) -> None:
    needs_server(library, protocol)
    table, result = tmp_path / "out.csv", tmp_path / "out.json"
    done = invoke(
        *("--protocol", protocol, "--concurrency", "1,3", "--duration", "300ms"),
        *("--csv", str(table), "--json", str(result)),
    )
    assert done.exit_code == 0, done.output
    for name in ("steps", "errors", "counts", "values"):
        assert re.search(rf"ok +{name} ", done.output), name
    steps = steps_of(tmp_path)
    assert [step["concurrency"] for step in steps] == [1, 3]
    for step in steps:
        assert set(step) >= FIELDS
        assert step["protocol"] == protocol
        assert list(step["percentiles_us"]) == ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"]
        values = list(step["percentiles_us"].values())
        assert 0 < values[0] <= values[-1]
        assert values == sorted(values)
        assert sum(count for _, count in step["histogram_ns"]) == step["requests"] > 0
        assert sum(row[1] for row in step["series"]) == step["requests"]
        assert sum(row[2] for row in step["slices"]) == step["requests"]
        assert len(step["windows"]) >= 3
        assert step["errors"] == {}
        assert step["statistics"]["add_sub"]["success"] == step["requests"]
        assert set(step["server"]) >= {"queue_us", "compute_input_us", "compute_infer_us", "compute_output_us"}
        assert step["server"]["compute_infer_us"] > 0
        assert step["cpu"] > 0
        assert step["peak_rss"] > 1 << 20
        assert (step["client_cpu"] is None) == (protocol == "c-api")
        assert step["validated"] > 0
    told = journal.all_of(journal.read(newest(tmp_path) / "journal.jsonl"), "window")
    assert len(told) == sum(len(step["windows"]) for step in steps)
    head, *rows = list(csv.reader(table.read_text().splitlines()))
    assert head == ["Concurrency", *_perf_table.COLUMNS]
    assert [row[0] for row in rows] == ["1", "3"]
    assert float(rows[0][1]) == pytest.approx(steps[0]["throughput"], rel=1e-3)
    saved = json.loads(result.read_text())
    assert saved["verdict"] == "pass"
    assert len(journal.all_of(saved["journal"], "step")) == 2
    again = CliRunner().invoke(cli.main, ["recheck", str(newest(tmp_path))])
    assert last_line(again.output) == last_line(done.output)


def test_until_it_is_stable(tmp_path: Path) -> None:
    done = invoke("--window", "50ms", "--windows", "4", "--stability", "100")
    assert done.exit_code == 0, done.output
    (step,) = steps_of(tmp_path)
    assert 3 <= len(step["windows"]) <= 4
    assert step["ended"] in ("stable", "unstable")


def test_unstable_is_said_and_unknown_only_if_asked() -> None:
    never = ("--window", "50ms", "--windows", "3", "--stability", "0.1")
    assert invoke(*never).exit_code == 0
    done = invoke(*never, "--require-stable")
    assert done.exit_code == 3, done.output
    assert "stability: unstable, the last three windows differ by more than 0%" in last_line(done.output)


@pytest.mark.parametrize("protocol", ["c-api", "http", "grpc"])
def test_an_open_loop(tmp_path: Path, library: tc.Library, protocol: str) -> None:
    needs_server(library, protocol)
    more = ["--threads", "2"] if protocol == "http" else []
    done = invoke("--protocol", protocol, "--rate", "200", "--poisson", "--requests", "60", *more)
    assert done.exit_code == 0, done.output
    (step,) = steps_of(tmp_path)
    assert (step["requests"], step["rate"]) == (60, 200.0)
    assert step["naive_us"]["p50"] <= step["percentiles_us"]["p50"]
    assert "from sending, not from when requests were due" in done.output


def test_a_rate_that_is_too_high_is_seen(tmp_path: Path) -> None:
    folder = slow_repository(tmp_path, 5)
    done = invoke("-r", str(folder), "-m", "slow", "--rate", "2000", "--in-flight", "2", "--duration", "300ms")
    assert done.exit_code == 0, done.output
    (step,) = steps_of(tmp_path)
    assert step["unsent"] > 0
    assert "due requests were never sent" in done.output
    assert step["percentiles_us"]["p50"] > 2 * step["naive_us"]["p50"]


def slow_repository(tmp_path: Path, delay_ms: int) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    source = model_repos.folder("memalloc") / "add_sub_int32_native"
    for name, delay in (("fast", 0), ("slow", delay_ms)):
        model_repos.copy_model(source, folder, model_repos.parameter("execute_delay_ms", delay), name)
    return folder


def test_models_with_weights(tmp_path: Path) -> None:
    done = invoke("-m", "add_sub", "-m", "add_sub_fp32_native:3", "--concurrency", "4", "--requests", "2000")
    assert done.exit_code == 0, done.output
    (step,) = steps_of(tmp_path)
    assert step["model"] == "add_sub+add_sub_fp32_native"
    first, second = step["models"]
    assert first["requests"] + second["requests"] == 2000
    assert 2 < second["requests"] / first["requests"] < 4.5


def test_models_of_ones_own(tmp_path: Path, tools: Any) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    tools.add_model(folder, "words", "identity", [("INPUT0", "BYTES", [-1])], [("OUTPUT0", "BYTES", [-1])])
    tools.add_model(
        *(folder, "sums", "accumulate", [("INPUT", "INT32", [-1])], [("OUTPUT", "INT32", [-1])]),
        extra="sequence_batching { direct { } max_sequence_idle_microseconds: 60000000 }",
    )
    own = ("-r", str(folder), "--requests", "60")
    done = invoke(*own, "-m", "words")
    assert done.exit_code == 2
    assert "--shape INPUT0:1" in done.output
    done = invoke(*own, "-m", "words", "--shape", "INPUT0:5", "--validate", "--validate-every", "1")
    assert done.exit_code == 0, done.output
    assert "all the same for the same inputs" in done.output
    done = invoke(*own, "-m", "sums", "--shape", "INPUT:1", "--sequence-length", "4", "--concurrency", "2")
    assert done.exit_code == 0, done.output
    assert steps_of(tmp_path)[0]["sequences"] >= 15
    # A model that adds up does not give the same answer twice.
    sequences = ("--sequence-length", "30", "--validate", "--validate-every", "1")
    done = invoke(*own, "-m", "sums", "--shape", "INPUT:1", *sequences)
    assert done.exit_code == 1, done.output
    assert re.search(r"values: .* answers are wrong; .*OUTPUT\[0\] is", last_line(done.output))


def test_cancelled_requests_are_no_failures(tmp_path: Path) -> None:
    folder = slow_repository(tmp_path, 2)
    done = invoke("-r", str(folder), "-m", "slow", "--requests", "50", "--cancel-rate", "0.5", "--concurrency", "2")
    assert done.exit_code == 0, done.output
    assert "were cancelled or timed out, as asked for" in done.output
    assert steps_of(tmp_path)[0]["errors"]["CANCELLED"] > 5
    surplus = edited(tmp_path, lambda step: step.update(cancels=1))
    assert re.match(r"perf: FAIL - errors: concurrency 2: \d+ requests more were cancelled than", surplus)


@pytest.mark.parametrize("protocol", ["c-api", "http", "grpc"])
def test_requests_that_waited_too_long_are_no_failures(tmp_path: Path, library: tc.Library, protocol: str) -> None:
    needs_server(library, protocol)
    folder = tmp_path / "models"
    folder.mkdir()
    policy = "timeout_action: REJECT default_timeout_microseconds: 100000000 allow_timeout_override: true"
    extra = "dynamic_batching { default_queue_policy { " + policy + " } }\n"
    extra += model_repos.parameter("execute_delay_ms", 20)
    model_repos.copy_model(model_repos.folder("memalloc") / "add_sub_int32_native", folder, extra, "queued")
    waits = ("--request-timeout", "1ms", "--concurrency", "20", "--requests", "60", "--batch", "8")
    done = invoke("-r", str(folder), "-m", "queued", "--protocol", protocol, *waits)
    assert done.exit_code == 0, done.output
    assert "were cancelled or timed out, as asked for" in done.output
    (step,) = steps_of(tmp_path)
    assert set(step["messages"].values()) == {"Request timeout expired"}


# Planted faults

FAULTS = [
    ("c-api", "wrong_values", r"values: concurrency 1: .* answers are wrong; add_sub: .*OUTPUT0\[0, 0\] is \d+, expec"),
    ("c-api", "fail_request", r"errors: concurrency 1: .* requests failed \(\d+ INTERNAL\), allowed 0.000%; INTER"),
    ("c-api", "crash", r"process: Triton crashed with SIGSEGV while measuring concurrency 1 \(1 of 1\)"),
    ("c-api", "answer_twice", r"answers: \d+ callbacks came for requests that were over"),
    ("c-api", "fail_instance_init", r"server: ServerLoadModel: .*planted fault"),
    ("c-api", "no_answer", r"errors: concurrency 1: 1 requests never came back"),
    ("http", "fail_request", r"errors: concurrency 1: .* requests failed \(\d+ HTTP 500\)"),
    ("grpc", "wrong_values", r"values: concurrency 1: .* answers are wrong; add_sub: OUTPUT0\[0, 0\] is \d+, expected"),
    ("grpc", "fail_request", r"errors: concurrency 1: .* requests failed \(\d+ INTERNAL\)"),
    ("grpc", "crash", r"server: tritonserver A crashed with SIGSEGV"),
    ("http", "fail_instance_init", r"server: tritonserver A ended with code 1: .*planted fault: fail_instance_init"),
]


@pytest.mark.parametrize(("protocol", "fault", "sentence"), FAULTS, ids=[f"{p}-{f}" for p, f, _ in FAULTS])
def test_planted_faults_are_named(library: tc.Library, protocol: str, fault: str, sentence: str) -> None:
    needs_server(library, protocol)
    done = invoke("--protocol", protocol, "--requests", "200", "--patience", "500ms", "--fault", fault)
    assert done.exit_code == 1, done.output
    assert re.match(f"perf: FAIL - {sentence}", last_line(done.output)), last_line(done.output)
    assert re.search(r"ok +left over", done.output) or fault == "crash"


def edited(tmp_path: Path, change: Any) -> str:
    """A good run with its journal edited: what is said of it now."""
    folder = newest(tmp_path)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    for event in lines:
        if event["event"] == "step":
            change(event)
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in lines))
    return last_line(CliRunner().invoke(cli.main, ["recheck", str(folder)]).output)


CHANGES = [
    (lambda s: s["histogram_ns"][0].__setitem__(1, 0), "counts: concurrency 1: .*the histogram holds"),
    (lambda s: s["series"][0].__setitem__(1, 1_000_000), "counts: concurrency 1: .*the series has"),
    (lambda s: s["statistics"]["add_sub"].update(success=5), "counts: .*of add_sub succeeded, Triton counts 5"),
    (lambda s: s["statistics"]["add_sub"].update(fail=5), "counts: concurrency 1: Triton took .* and 5 failures"),
    (lambda s: s.update(lost=2), "errors: concurrency 1: 2 requests never came back"),
    (lambda s: s.update(wrong=1, wrong_texts=["it"]), "values: concurrency 1: 1 of .*; it"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_counts_that_disagree_are_seen(tmp_path: Path, change: Any, sentence: str) -> None:
    assert invoke("--requests", "100").exit_code == 0
    assert re.match(f"perf: FAIL - {sentence}", edited(tmp_path, change))


def test_nothing_measured_is_no_pass(tmp_path: Path) -> None:
    assert invoke("--requests", "100").exit_code == 0
    empty = {"requests": 0, "histogram_ns": [], "series": [], "statistics": {"add_sub": {"success": 0, "fail": 0}}}

    def change(step: dict[str, Any]) -> None:
        step.update(empty, validated=0)
        step["models"][0].update(requests=0, errors=0, submitted=0)

    assert edited(tmp_path, change).startswith("perf: UNKNOWN - steps: 1 of 1 measured nothing")


# Regressions


def test_a_slower_model_is_a_regression(tmp_path: Path) -> None:
    few = ("--duration", "400ms", "--concurrency", "1")
    saved = invoke(*few, "--save", "before")
    assert saved.exit_code == 0, saved.output
    path = tmp_path / "runs" / "baselines" / "before.json"
    assert f"saved as before in {path}" in saved.output
    kept = json.loads(path.read_text())
    assert kept["command"].startswith("tritoncapi-harness")
    assert kept["machine"]["cpus"] > 0
    done = invoke(*few, "--compare", "before", "--fault", "slow:2")
    assert done.exit_code == 1, done.output
    sentence = "perf: FAIL - regression, concurrency 1: worse than before by more than 10%: "
    assert last_line(done.output).startswith(sentence)
    # The history has the baseline: it can be judged again without the file.
    path.unlink()
    assert CliRunner().invoke(cli.main, ["recheck", str(newest(tmp_path))]).exit_code == 1


def test_the_same_model_is_no_regression(tmp_path: Path) -> None:
    folder = slow_repository(tmp_path, 1)  # a model that sleeps is as fast on a busy machine
    few = ("-r", str(folder), "-m", "slow", "--duration", "300ms", "--allow", "50")
    assert invoke(*few, "--save", "base").exit_code == 0
    done = invoke(*few, "--compare", "base")
    assert done.exit_code == 0, done.output
    assert re.search(r"ok +regression, concurrency 1 +against base: throughput x [01]\.\d", done.output)
    other = invoke(*few, "--compare", "base", "--batch", "2")
    assert other.exit_code == 3, other.output
    assert "measured under other conditions: settings batch: 1 then, 2 now" in last_line(other.output)
    forced = invoke(*few, "--compare", "base", "--batch", "2", "--force")
    assert "regression, concurrency 1" in forced.output
    missing = invoke(*few, "--compare", "base", "--concurrency", "2")
    assert missing.exit_code == 3
    assert "base has none of these points; it has concurrency 1" in last_line(missing.output)


def test_a_bad_run_is_not_saved(tmp_path: Path) -> None:
    done = invoke("--requests", "200", "--fault", "wrong_values", "--save", "bad")
    assert done.exit_code == 1
    assert "not saved as bad: values" in done.output
    assert not (tmp_path / "runs" / "baselines").exists()


TURNS = ("--rounds", "5", "--duration", "100ms", "--warmup", "20ms")


def test_two_models_take_turns(tmp_path: Path) -> None:
    folder = slow_repository(tmp_path, 2)
    both = ("-r", str(folder), *TURNS)
    done = invoke(*both, "-m", "fast", "--ab-model", "slow")
    assert done.exit_code == 1, done.output
    assert re.match("perf: FAIL - A and B, concurrency 1: worse than side A", last_line(done.output))
    assert "".join(step["side"] for step in steps_of(tmp_path)) == "ABBAABBAAB"
    done = invoke(*both, "-m", "slow", "--ab-model", "fast", "--allow", "30")
    assert done.exit_code == 0, done.output
    model_repos.copy_model(folder / "slow", folder, name="twin")
    done = invoke(*both, "-m", "slow", "--ab-model", "twin", "--allow", "30")
    assert done.exit_code == 0, done.output


def test_two_tritons_take_turns(tmp_path: Path, library: tc.Library) -> None:
    other = ("--ab", str(library.triton.root), *TURNS)
    done = invoke(*other, "--fault", "slow:2")
    assert done.exit_code == 1, done.output
    assert re.match("perf: FAIL - A and B, concurrency 1: worse than side A", last_line(done.output))
    assert "Triton: side B: given as" in done.output
    done = invoke(*other, "--fault", "crash")
    assert done.exit_code == 1, done.output
    assert last_line(done.output) == "perf: FAIL - server: Triton of side B crashed with SIGSEGV"
    assert re.search(r"ok +left over", done.output)
    done = invoke("--ab", str(tmp_path), *TURNS)
    assert done.exit_code == 2
    assert "holds no Triton" in done.output


# The server program


def test_ports_that_are_taken_are_left(tmp_path: Path, library: tc.Library, backends: Path) -> None:
    needs_server(library, "http")
    repository = tmp_path / "models"
    repository.mkdir()
    with socket.socket() as taken:
        taken.bind((_perf_server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        offers = iter([(_perf_server.free_ports()[0], port), _perf_server.free_ports()])
        server = _perf_server.TritonServer(
            *("A", library.triton, tmp_path),
            repository=repository,
            backends=backends,
            models=[],
            ports=lambda: next(offers),
        )
    assert port not in (server.http, server.grpc)
    assert server.get("/v2")["name"].startswith("tritoncapi-")
    with pytest.raises(SideDied, match=r"HTTP 40[04]"):
        server.model("nobody")
    assert server.stop() == ""
    assert server.process.returncode == 0
    assert server.stop() == ""


def test_a_killed_server_is_a_result(tmp_path: Path, library: tc.Library) -> None:
    needs_server(library, "grpc")
    command = [str(Path(sys.executable).with_name("tritoncapi-harness")), "perf", "-q", "--protocol", "grpc"]
    process = subprocess.Popen([*command, "--duration", "30s"], stdout=subprocess.PIPE, text=True)
    run = tmp_path / "runs"

    def measuring() -> bool:
        return any("measuring" in text(path) for path in run.glob("*/journal.jsonl"))

    assert until(measuring, 60)
    (path,) = run.glob("*/journal.jsonl")
    started = journal.last(journal.read(path), "tritonserver")
    assert started is not None
    os.kill(started["pid"], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "perf: FAIL - server: tritonserver A crashed with SIGKILL" in output


def test_a_client_that_fails_says_nothing_of_the_server(tmp_path: Path, library: tc.Library) -> None:
    needs_server(library, "http")
    assert invoke("--requests", "50", "--protocol", "http").exit_code == 0
    folder = newest(tmp_path)
    with (folder / "journal.jsonl").open("a") as file:
        line = {"event": "died", "time_ns": 1, "text": "client process 0 ended", "what": "client"}
        file.write(json.dumps(line) + "\n")
    done = CliRunner().invoke(cli.main, ["recheck", str(folder)])
    assert (done.exit_code, last_line(done.output)) == (3, "perf: UNKNOWN - client: client process 0 ended")


def test_interrupted_over_grpc_nothing_runs_on(tmp_path: Path, library: tc.Library) -> None:
    needs_server(library, "grpc")
    command = [str(Path(sys.executable).with_name("tritoncapi-harness")), "perf", "-q", "--protocol", "grpc"]
    process = subprocess.Popen([*command, "--duration", "30s"], stdout=subprocess.PIPE, text=True)
    run = tmp_path / "runs"
    assert until(lambda: any("measuring" in text(path) for path in run.glob("*/journal.jsonl")), 60)
    (path,) = run.glob("*/journal.jsonl")
    started = journal.last(journal.read(path), "tritonserver")
    assert started is not None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "interrupted; what was measured is in" in output
    assert until(lambda: not Path(f"/proc/{started['pid']}").exists(), 10)


def test_what_is_missing_is_said(tmp_path: Path, library: tc.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tc.Triton(library.triton.library, tmp_path, "path", "given")
    with pytest.raises(LacksError, match="has no server program"):
        _perf_server.binary(bare)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(LacksError, match=r"pip install 'tritonclient\[grpc\]'"):
        _perf_clients.require_client("grpc")


# The peer

ROW = r"Concurrency,Inferences/Second,Client Send,p50 latency,p95 latency,p99 latency\n1,1000,5,11,12,13\n"
PEER = f"""#!/bin/sh
case "$1" in --version) echo 'Perf Analyzer Version 2.60.0'; exit 0;; esac
echo "$@" > "$PEER_SAW"
echo "$LD_PRELOAD" >> "$PEER_SAW"
for word; do
  case "$word" in
    --concurrency-range=2) echo 'Failed to obtain stable measurement.'; exit 2;;
    --triton-server-directory=*) ls "${{word#*=}}/lib/libtritonserver.so" "${{word#*=}}/backends" >> "$PEER_SAW";;
    *.csv) printf '{ROW}' > "$word";;
  esac
done
"""


def test_the_peers_figures_stand_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "perf_analyzer"
    program.parent.mkdir()
    program.write_text(PEER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PEER_SAW", str(tmp_path / "saw"))
    done = invoke("--requests", "300", "--peer", "perf_analyzer")
    assert done.exit_code == 0, done.output
    (line,) = re.findall(r"concurrency 1 .* 1000\.0 .*", done.output)
    assert line.split()[-6:][1::2] == ["11", "12", "13"]
    assert "perf_analyzer:" not in done.output
    saw = (tmp_path / "saw").read_text()
    assert "-m add_sub --service-kind=triton_c_api" in saw
    assert "libtritonserver.so" in saw
    assert model_repos.TEST_BACKEND in saw
    done = invoke("--requests", "300", "--concurrency", "1,2", "--peer", "perf_analyzer")
    assert re.search(r"concurrency 1 .* 1000\.0 .*", done.output)
    assert "perf_analyzer: concurrency 2: it ended with code 2: Failed to obtain stable measurement." in done.output
    program.write_text("#!/bin/sh\necho \"version 'GLIBC_2.38' not found\" >&2\nexit 1\n")
    done = invoke("--requests", "300", "--peer", "perf_analyzer")
    assert done.exit_code == 4
    assert "it needs glibc 2.38 or newer, this machine has" in done.output


def test_without_the_peer_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenarios._perf_peer.find", lambda: None)
    done = invoke("--peer", "perf_analyzer")
    assert done.exit_code == 4
    assert "pip install perf-analyzer (it needs glibc 2.38 or newer" in done.output


def test_checks_need_no_run() -> None:
    assert roles.build("scenarios.perf:build", json.loads('{"points": [], "two_sides": false, "fault": null}'))
    assert _perf_checks.name_of({"key": "rate 5"}) == "rate 5"
