"""matrix: which cells are chosen; on a real Triton it passes, and fails exactly the cells that a planted fault hits."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import tritoncapi as tc
from harness import cli, runner
from harness.child import Ended
from harness.errors import LacksError, UsageError
from harness.report.document import document
from harness.scenario import Run
from harness.verdict import Verdict, overall
from scenarios import _matrix_checks as checks
from scenarios import _matrix_map as shown
from scenarios import matrix
from scenarios._matrix_axes import VALUES, axes_on, name_of, read_filter, reason
from scenarios._matrix_choice import all_pairs, choose, narrowed, pairs_of
from scenarios._matrix_known import KNOWN, Known, known_for, version_of
from scenarios._matrix_machine import check_only, look
from scenarios._matrix_run import judge_cell
from scenarios._matrix_tensors import POISON, datatype_of_cell, difference, operands, shape_of, zeros_like
from tritoncapi.tensor import decode

CELL = "in=cpu,out=cpu,model=cpu,backend=native,type=int32,policy=none,ensemble=no,size=16,batch=1"
TRITON = (2, 51)


def cell_of(**changes: str) -> dict[str, str]:
    return {**dict(word.split("=") for word in CELL.split(",")), **changes}


# Filters


def test_a_cell_s_name_is_a_filter_that_picks_it_alone() -> None:
    assert name_of(cell_of()) == CELL
    found = read_filter(CELL)
    assert found.is_one_cell()
    assert found.matches(cell_of())
    assert not any(found.matches(cell_of(**{axis: "other"})) for axis in VALUES)


def test_filters() -> None:
    found = read_filter("type=int32,fp32, out=GPU ,size=64mib,type=bytes")
    assert found.values == {"type": {"int32", "fp32", "bytes"}, "out": {"gpu"}, "size": {"64MiB"}}
    assert found.fits("out", "gpu:3")
    assert not found.fits("out", "cpu")
    assert found.fits("in", "anything")
    assert not found.is_one_cell()
    assert not read_filter(CELL.replace("in=cpu", "in=cpu,mixed")).is_one_cell()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "write axis=value,value,axis=value"),
        ("native", "write axis=value,value,axis=value"),
        ("colour=red", "there is no axis 'colour'; the axes are in, out, model"),
        ("type=int33", "type has no value 'int33'; it has int32, fp32"),
        ("type=", "type has no value ''"),
        ("out=gpu:x", "out has no value 'gpu:x'; it has cpu, pinned, gpu:N, gpu, preferred, different"),
        ("model=gpu:01", "model has no value 'gpu:01'"),
        ("policy=gpu:0", "policy has no value 'gpu:0'"),
    ],
)
def test_what_is_no_filter(text: str, sentence: str) -> None:
    done = CliRunner().invoke(cli.main, ["matrix", "--only", text])
    assert done.exit_code == 2
    assert sentence in done.output
    assert done.output.count("\n") == 1


def test_values_that_are_not_here() -> None:
    axes = axes_on(1, ["native"])
    check_only(axes, [read_filter("out=gpu,cpu"), read_filter(CELL)])
    for text in ("in=gpu:1", "backend=python", "backend=native,onnxruntime"):
        with pytest.raises(LacksError, match="is not here"):
            check_only(axes, [read_filter(text)])
    with pytest.raises(UsageError, match="leave no value of type"):
        check_only(axes, [read_filter("type=int32"), read_filter("type=fp32")])


# The choice


def possible(cell: Mapping[str, str], reasons: list[Any]) -> bool:
    return not any(all(row.cells.fits(axis, cell[axis]) for axis in row.cells.values) for row in reasons)


@pytest.mark.parametrize("devices", [0, 1, 2])
def test_every_pair_that_can_be_is_chosen(devices: int) -> None:
    axes = axes_on(devices, ["native", "python", "dlpack"])
    reasons = [reason("backend=dlpack,model=cpu", "a"), reason("backend=python,type=bf16", "b")]
    if not devices:
        reasons += [reason(text, "c") for text in ("in=pinned,gpu", "out=pinned,gpu,different", "model=gpu")]
    choice = choose(axes, reasons, KNOWN, TRITON)
    chosen = [cell for cell in choice.cells if not known_for(cell, TRITON)]
    everything = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    feasible = [cell for cell in everything if possible(cell, reasons)]
    wanted = {pair for cell in feasible if not known_for(cell, TRITON) for pair in pairs_of(cell)}
    assert {pair for cell in chosen for pair in pairs_of(cell)} == wanted
    assert (choice.pairs, choice.pairs + choice.pairs_impossible) == (len(wanted), len(list(all_pairs(axes))))
    assert all(possible(cell, reasons) for cell in choice.cells)
    assert len({name_of(cell) for cell in choice.cells}) == len(choice.cells) < 100
    assert choice.nominal == len(everything)
    assert choice.possible == len(feasible)
    # An empty tensor proves little: pairs without it are in cells that have something to compare.
    strong = [cell for cell in feasible if cell["size"] != "0" and not known_for(cell, TRITON)]
    full = {pair for cell in chosen if cell["size"] != "0" for pair in pairs_of(cell)}
    assert {pair for cell in strong for pair in pairs_of(cell)} == full
    failing = [row for row in KNOWN if any(row.holds(cell, TRITON) for cell in feasible)]
    assert {known.name for cell in choice.cells if (known := known_for(cell, TRITON))} == {row.name for row in failing}
    assert choose(axes, reasons, KNOWN, TRITON) == choice


def test_all_cells_and_one_cell() -> None:
    axes = axes_on(0, ["native"])
    reasons = [reason("in=pinned,gpu", "no GPU"), reason("in=pinned", "never counted")]
    choice = choose(axes, reasons, KNOWN, TRITON, full=True)
    assert len(choice.cells) == choice.possible == choice.nominal - choice.left_out["no GPU"]
    assert set(choice.left_out) == {"no GPU"}
    one = choose(narrowed(axes, [read_filter(CELL)]), reasons, KNOWN, TRITON)
    assert [name_of(cell) for cell in one.cells] == [CELL]


def test_spared_cells_are_chosen_where_there_are_no_others() -> None:
    axes, spared = axes_on(0, ["native"]), [reason("type=fp64", "slow")]
    usual = choose(axes, [], [], TRITON, spared=spared)
    assert "fp64" not in {cell["type"] for cell in usual.cells}
    assert (usual.spared, usual.possible) == ({"slow": usual.nominal // 8}, usual.nominal)
    alone = choose(narrowed(axes, [read_filter("type=fp64")]), [], [], TRITON, spared=spared)
    assert alone.cells
    assert alone.spared == {}


# What is expected


def test_known_failures_hold_for_versions() -> None:
    row = Known("x", read_filter("type=int32"), "values", "evidence", since=(2, 40), until=(2, 51))
    assert [row.holds(cell_of(), version_of(text)) for text in ("2.39.0", "2.40.0", "2.51.0", "2.52.0")] == [
        *(False, True, True, False)
    ]
    assert known_for(cell_of(type="fp32"), TRITON, [row]) is None
    assert version_of("main") == (0, 0)
    assert all(row.evidence and row.check for row in KNOWN)


def test_a_known_failure_excuses_only_itself() -> None:
    (row,) = [row for row in KNOWN if row.name == "python-host-policy"]
    values, log = ("values", "all zero"), ("log", "failed to copy")
    assert judge_cell([], None) == ("pass", "")
    assert judge_cell([values, values, log], None) == ("fail", "all zero; failed to copy")
    assert judge_cell([values], row)[0] == "known"
    assert judge_cell([values, log], row)[0] == "known"
    assert judge_cell([values, ("releases", "1 buffer")], row) == ("fail", "all zero; 1 buffer")
    assert judge_cell([log], row)[0] == "fail"
    outcome, evidence = judge_cell([], row)
    assert outcome == "unexpected_pass"
    assert row.evidence in evidence


@pytest.mark.parametrize("size", ["16", "0", "odd", "1MiB"])
@pytest.mark.parametrize("datatype", VALUES["type"])
def test_operands_are_what_they_say(datatype: str, size: str) -> None:
    cell = cell_of(type=datatype, size=size, batch="max")
    inputs, outputs = operands(cell, name_of(cell))
    read = [decode(raw, datatype_of_cell(cell), shape_of(cell)) for raw in (*inputs, *outputs)]
    if datatype in ("int32", "fp32", "bytes"):
        whole = [np.vectorize(int, otypes=[np.int64])(each) if each.size else each for each in read]
        a, b, total, rest = whole if size != "0" else read
        if size != "0":
            assert (a + b == total).all()
            assert (a - b == rest).all()
    else:
        assert [raw.tobytes() for raw in inputs] == [raw.tobytes() for raw in outputs]
    for raw in (*inputs, *outputs):
        zeros = zeros_like(cell, raw)
        assert zeros.size == raw.size
        assert size == "0" or difference(datatype_of_cell(cell), zeros, raw)
        # A piece in another's place, or one that is zero, is not what it was.
        third = raw.size // 3
        assert size == "0" or raw[:third].tobytes() != raw[third : 2 * third].tobytes()
        assert size == "0" or raw[-third:].any()
    other = operands(cell, name_of(cell) + "x")[0]
    assert size == "0" or other[0].tobytes() != inputs[0].tobytes()


def test_differences_are_named() -> None:
    kind = tc.DataType.INT32
    want = np.arange(3, 19, dtype=np.int32).view(np.uint8)
    wrong = want.copy()
    wrong[8] += 1
    assert difference(kind, want.copy(), want) == ""
    assert difference(kind, wrong, want) == "1 of 16 values are wrong; the first at [2]: 6 instead of 5"
    assert "never written" in difference(kind, np.full(64, POISON, np.uint8), want)
    assert difference(kind, np.zeros(64, np.uint8), want) == "all 16 values are zero"
    assert difference(kind, want[:60], want) == "60 bytes, expected 64"


# Checks, on runs that were not made


def run_of(*events: dict[str, Any], how: str = "ended", **options: Any) -> Run:
    numbered = [{"time_ns": number + 1, **event} for number, event in enumerate(events)]
    ended = Ended(how, 0, 1.0, numbered, signal="SIGSEGV" if how == "crashed" else "")
    return Run({"fault": None, "triton": None, **options}, ended)


def line(outcome: str, name: str = CELL, **more: Any) -> dict[str, Any]:
    cell = dict(word.split("=") for word in name.split(","))
    blank = {"expected": "pass", "known": "", "evidence": "", "ms": 1.0, "problems": [], "tensors": []}
    return {"event": "cell", "cell": name, "axes": cell, "outcome": outcome, **blank, **more}


PLAN = {"event": "plan", "selected": 1, "possible": 9, "nominal": 10, "full": False, "pairs": 5}
PLAN |= {"left_out": {"no GPU": 1}, "spared": {}}
END = {"event": "end"}
OP = {"event": "op", "kind": "ok", "time_ns": 10**9}
OTHER = CELL.replace("in=cpu", "in=mixed")


@pytest.mark.parametrize(
    ("events", "how", "verdict", "sentence"),
    [
        ([PLAN, line("pass"), END], "ended", Verdict.PASS, "1 cells passed"),
        ([PLAN, END], "ended", Verdict.UNKNOWN, "no cell was run"),
        ([END], "ended", Verdict.UNKNOWN, "no cell was run"),
        ([PLAN, line("known", known="python-host-policy"), END], "ended", Verdict.UNKNOWN, "none of 1 cells passed"),
        ([PLAN, line("pass"), line("known", OTHER, known="k"), END], "ended", Verdict.PASS, "1 cells failed as"),
        ([PLAN, line("pass"), line("unexpected_pass", OTHER, known="k"), END], "ended", Verdict.UNKNOWN, "expected to"),
        ([PLAN, line("pass"), line("unknown", OTHER, evidence="stuck"), END], "ended", Verdict.UNKNOWN, "stuck"),
        ([PLAN | {"selected": 2}, line("pass"), END], "ended", Verdict.UNKNOWN, "1 of 2 cells were not run"),
        ([PLAN, line("fail", evidence="bad", problems=[["values", "wrong"]]), END], "ended", Verdict.FAIL, "wrong"),
        ([PLAN, {"event": "begun", "cell": CELL}], "crashed", Verdict.FAIL, "crashed with SIGSEGV in this cell"),
        ([PLAN, {"event": "begun", "cell": OTHER}], "hung", Verdict.FAIL, "was under way when"),
        ([PLAN, line("pass"), OP, {"event": "begun", "cell": OTHER}], "hung", Verdict.UNKNOWN, "was getting on"),
        ([PLAN, line("pass"), {"event": "begun", "cell": OTHER}], "lost", Verdict.UNKNOWN, "cut off"),
        ([PLAN, line("pass"), END, {"event": "calls", "open": 1, "strays": 0}], "ended", Verdict.FAIL, "never came"),
        ([PLAN, line("pass"), END, {"event": "stop", "text": "no", "seconds": 1}], "ended", Verdict.FAIL, "no"),
    ],
)
def test_checks(events: list[dict[str, Any]], how: str, verdict: Verdict, sentence: str) -> None:
    found = checks.judge(run_of(*events, how=how))
    assert overall(found) == verdict
    assert sentence in next(check.sentence for check in found if sentence in check.sentence)


def test_a_stub_that_does_not_end_is_known_on_a_gpu_only() -> None:
    for model, verdict in (("dlpack_int32_gpu0", Verdict.PASS), ("native_int32_gpu0", Verdict.FAIL)):
        stop = {"event": "stop", "text": f"the server did not stop within 9 s: {model} is UNLOADING", "seconds": 9}
        assert overall(checks.judge(run_of(PLAN, line("pass"), END, stop))) == verdict


def test_after_a_crash_the_run_goes_on() -> None:
    plan, begun = PLAN | {"selected": 3}, {"event": "begun", "cell": CELL}
    crashed = {"event": "crashed", "signal": "SIGABRT"}
    resume = lambda *events: matrix.resume(run_of(*events, how="crashed").ended)  # noqa: E731
    assert resume(plan, begun) == {"done": 1}
    assert resume(plan, begun, line("pass"), begun) == {"done": 2}
    assert resume(plan, begun, crashed, begun) == {"done": 2}
    assert resume(plan, begun, crashed) is None  # the second child never began a cell
    assert resume(plan, begun, line("pass")) is None
    assert resume(PLAN, begun) is None  # there is no cell left
    assert resume(*[plan | {"selected": 99}], *[begun, crashed] * matrix.MOST_CRASHES, begun) is None
    run = run_of(plan, begun, crashed, begun, line("pass"), END)
    assert [cell["outcome"] for cell in checks.cells_of(run)] == ["fail", "pass"]
    assert "SIGABRT" in checks.cells_of(run)[0]["evidence"]


def test_heat_map_reads_without_colour() -> None:
    elsewhere = CELL.replace("out=cpu", "out=gpu:0")
    cells = [line("pass"), line("fail", OTHER), line("pass", OTHER), line("known", elsewhere)]
    text = [each.plain for each in shown.heat_map(cells)]
    assert text[0].split() == ["input", "on", "model", "on", "to", "cpu", "to", "gpu:0"]
    assert text[1].split() == ["cpu", "cpu", "p", "1", "k", "1"]
    assert text[2].split() == ["mixed", "cpu", "F", "1/2", "."]


def test_the_reproducer_keeps_what_was_planted() -> None:
    run = run_of(fault="wrong_values:fp32", triton="/opt/my triton")
    assert checks.reproducer(run, CELL) == (
        f"tritoncapi-harness matrix --only {CELL} --fault wrong_values:fp32 --triton '/opt/my triton'"
    )


# On a real Triton


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITONCAPI_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.main, ["matrix", *words])


def facts(path: Path, *words: str) -> tuple[Result, dict[str, Any]]:
    done = invoke(*words, "--json", str(path / "facts.json"))
    return done, json.loads((path / "facts.json").read_text())


@pytest.mark.triton
def test_the_pairs_pass(tmp_path: Path, runs: Path) -> None:
    done, found = facts(tmp_path)
    assert done.exit_code == 0, done.output
    plan, cells = found["matrix"], found["cells"]
    assert len(cells) == plan["selected"] == plan["done"] >= 40
    assert {cell["axes"]["type"] for cell in cells} == set(VALUES["type"])
    assert {cell["outcome"] for cell in cells} <= {"pass", "known"}
    assert plan["outcomes"]["pass"] >= 40
    assert plan["rate"] > 0
    assert set(cells[0]) >= {"cell", "axes", "outcome", "expected", "evidence", "ms"}
    assert all(cell["tensors"] for cell in cells)
    (run,) = runs.iterdir()
    assert CliRunner().invoke(cli.main, ["recheck", str(run)]).stdout == done.stdout


@pytest.mark.triton
def test_everything_small_passes(tmp_path: Path) -> None:
    done, found = facts(tmp_path, "--full", "--only", "backend=native,size=16,0,odd", "--only", "in=cpu,mixed")
    assert done.exit_code == 0, done.output
    assert found["matrix"]["outcomes"] == {"pass": found["matrix"]["possible"]}
    assert found["matrix"]["possible"] >= 2 * 2 * 8 * 4 * 2 * 3 * 2


@pytest.mark.triton
def test_one_cell() -> None:
    done = invoke("--only", CELL, "-q")
    assert (done.exit_code, done.output) == (0, "matrix: PASS - 1 of 1 cells passed\n")


Cell = Mapping[str, str]
FAULTS: list[tuple[str, Callable[[Cell], bool]]] = [
    ("wrong_values:fp32", lambda cell: cell["type"] == "fp32" and cell["size"] != "0"),
    ("wrong_values:bytes", lambda cell: cell["type"] == "bytes" and cell["size"] != "0"),
    # An ensemble takes its steps' outputs into memory of its own and reports that.
    ("wrong_reported:pinned", lambda cell: cell["ensemble"] == "no"),
    ("wrong_preferred:pinned", lambda cell: cell["ensemble"] == "no"),
    ("wrong_device", lambda cell: cell["size"] != "0"),
    ("drop_chunk", lambda cell: cell["in"] == "mixed" and cell["size"] != "0"),
    ("ignore_host_policy", lambda cell: cell["policy"] == "right" and cell["size"] != "0"),
    ("fail_execute", lambda cell: True),
]


@pytest.mark.triton
@pytest.mark.parametrize(("fault", "hit"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_a_fault_fails_the_cells_that_it_hits_and_no_others(
    fault: str, hit: Callable[[Cell], bool], tmp_path: Path
) -> None:
    some = "in=cpu,mixed,out=cpu,preferred,model=cpu,type=fp32,bytes,bool,fp16,size=0,16,odd,policy=right,wrong"
    done, found = facts(tmp_path, "--full", "--only", "backend=native", "--only", some, "--fault", fault)
    assert done.exit_code == 1, done.output
    cells = found["cells"]
    assert len(cells) == 2 * 2 * 4 * 3 * 2 * 2 * 2
    assert {cell["cell"] for cell in cells if cell["outcome"] == "fail"} == {
        cell["cell"] for cell in cells if hit(cell["axes"])
    }
    assert {cell["outcome"] for cell in cells} <= {"pass", "fail"}
    command = re.findall(r"run it alone: tritoncapi-harness (.*)", done.output)[0]
    assert CliRunner().invoke(cli.main, command.split()).exit_code == 1


@pytest.mark.triton
def test_a_fault_that_nothing_sees_is_no_pass() -> None:
    done = invoke("--only", CELL, "--fault", "wrong_values:fp64")
    assert done.exit_code == 3
    assert "wrong_values:fp64 was planted, and no check saw anything of it" in done.output


@pytest.mark.triton
def test_each_crash_is_a_cell_and_the_others_run(tmp_path: Path, runs: Path) -> None:
    done, found = facts(
        tmp_path, "--full", "--only", CELL.replace("batch=1", "batch=1,max"), "--fault", "crash", "--timeout", "60"
    )
    assert done.exit_code == 1
    assert [cell["evidence"] for cell in found["cells"]] == 2 * ["Triton crashed with SIGSEGV in this cell"]
    assert "not reached" not in done.output
    # The page and its JSON know of them too, and of the command that shows it again.
    (folder,) = (path.parent for path in runs.rglob("run.json"))
    (told,) = document([runner.judge(folder)])["runs"]
    assert [cell["outcome"] for cell in told["cells"]] == ["fail", "fail"]
    assert all(cell["reproduce"].endswith(f"{cell['cell']} --fault crash") for cell in told["cells"])


@pytest.mark.triton
def test_a_hang_is_a_cell_and_other_models_go_on(tmp_path: Path) -> None:
    only = CELL.replace("batch=1", "batch=1,max").replace("type=int32", "type=int32,bool")
    done, found = facts(tmp_path, "--full", "--only", only, "--fault", "never_release", "--timeout", "12")
    assert done.exit_code == 1
    outcomes = {(cell["axes"]["type"], cell["axes"]["batch"]): cell["outcome"] for cell in found["cells"]}
    assert outcomes == {
        (kind, batch): outcome for kind in ("bool", "int32") for batch, outcome in (("1", "fail"), ("max", "unknown"))
    }
    assert "did not release the request" in done.output


@pytest.mark.triton
@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--only", "out=gpu:77"], 4, "out=gpu:77 is not here"),
        (["--only", "type=int32", "--only", "type=fp32"], 2, "leave no value of type"),
        (["--skip", "type=int32", "--only", "type=int32"], 2, "no cell can be run: --skip"),
        (["--only", "backend=dlpack,model=cpu"], 4, "GPU tensors need a model on a GPU"),
        (["--fault", "leak_host:100"], 2, "the matrix sees no leak"),
        (["--fault", "nonsense"], 2, "unknown fault"),
        (["--triton", ""], 2, "--triton is empty"),
    ],
)
def test_what_cannot_be_run(words: list[str], code: int, sentence: str, runs: Path) -> None:
    done = invoke(*words)
    assert done.exit_code == code, done.output
    assert sentence in done.output
    assert "Traceback" not in done.output
    assert not runs.exists() or not list(runs.iterdir())


def test_a_machine_without_python_backend(library: tc.Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object) -> None:
        raise LacksError("no stub")

    monkeypatch.setattr("scenarios._triton.require_python_backend", lacks)
    machine = look(library, tmp_path)
    assert "no stub" in [row.why for row in machine.reasons]
    choice = choose(machine.axes, machine.reasons, KNOWN, TRITON, spared=machine.spared)
    assert {cell["backend"] for cell in choice.cells} == {"native"}
    assert choice.left_out["no stub"]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("fault", "hit"),
    [
        ("wrong_device:gpu", lambda cell: (cell["model"] if cell["out"] == "preferred" else cell["out"]) == "gpu:0"),
        ("wrong_values:int32", lambda cell: cell["type"] == "int32"),
        ("drop_chunk", lambda cell: cell["in"] == "mixed"),
        ("wrong_reported:pinned", lambda cell: cell["out"] != "pinned"),
    ],
)
def test_on_a_gpu_too(fault: str, hit: Callable[[Cell], bool], tmp_path: Path, library: tc.Library) -> None:
    if not tc.cuda.device_count():
        pytest.skip("no CUDA device")
    some = "type=int32,fp16,size=16,odd,policy=none,ensemble=no,model=cpu,gpu:0,in=cpu,pinned,gpu:0,mixed"
    some += ",out=cpu,pinned,gpu:0,preferred"
    done, found = facts(tmp_path, "--full", "--only", "backend=native", "--only", some, "--fault", fault)
    assert done.exit_code == 1, done.output
    failing = {cell["cell"] for cell in found["cells"] if cell["outcome"] == "fail"}
    assert failing == {cell["cell"] for cell in found["cells"] if hit(cell["axes"])}


@pytest.mark.parametrize("datatype", ["int32", "fp32", "bf16", "bool"])
def test_onnx_models_compute_what_is_expected(datatype: str) -> None:
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")

    from scenarios._matrix_exporters import onnx_model

    evaluator = reference.ReferenceEvaluator(onnx.load_from_string(onnx_model(datatype)))
    assert evaluator.input_names == ["INPUT0", "INPUT1"]
    assert evaluator.output_names == ["OUTPUT0", "OUTPUT1"]
    if datatype == "bf16":  # NumPy has none
        return
    cell = cell_of(type=datatype)
    inputs, outputs = (
        [decode(raw, datatype_of_cell(cell), shape_of(cell)) for raw in each] for each in operands(cell, name_of(cell))
    )
    computed = evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=True)))
    for got, want in zip(computed, outputs, strict=True):
        assert (got == want).all()
