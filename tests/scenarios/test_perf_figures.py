"""perf's windows, bounds, options, inputs and tallies, on made-up figures: no server is needed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import tritoncapi as tc
from harness import cli
from harness.child import Ended
from harness.errors import UsageError
from harness.scenario import Run
from harness.verdict import Verdict
from scenarios import _perf_baseline as baseline
from scenarios import _perf_checks
from scenarios import _perf_compare as compare
from scenarios import _perf_plan as plan
from scenarios._perf_inputs import SETS, Validator, input_sets
from scenarios._perf_models import split_fault
from scenarios._perf_tally import Tally
from scenarios._perf_windows import FEWEST, Meter, Slice, Window, join, stable


def piece(start: float, completed: int, mean: float = 100.0, seconds: float = 0.1, errors: int = 0) -> Slice:
    return Slice(start, seconds, completed, errors, mean, mean, 2 * mean, 3 * mean)


# Windows


def window(completed: int, mean: float) -> Window:
    return Window(0.0, 1.0, completed, 0, mean)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ([(100, 10.0), (100, 10.0)], None),
        ([(100, 10.0), (105, 10.0), (95, 10.0)], True),
        ([(500, 1.0), (100, 10.0), (105, 10.0), (95, 10.0)], True),
        ([(100, 10.0), (100, 10.0), (130, 10.0)], False),
        ([(100, 10.0), (100, 10.0), (100, 13.0)], False),
        ([(0, 0.0), (0, 0.0), (0, 0.0)], False),
    ],
)
def test_three_windows_that_agree_are_stable(figures: list[tuple[int, float]], expected: bool | None) -> None:
    assert stable([window(*entry) for entry in figures]) is expected


def test_slices_join_by_their_weight() -> None:
    found = join([piece(0.0, 10, 100.0), piece(0.1, 40, 200.0, errors=10)])
    assert (found.completed, found.errors) == (50, 10)
    assert found.mean_us == pytest.approx((10 * 100 + 30 * 200) / 40)
    assert found.throughput == pytest.approx(50 / 0.2)


def meter(slices: list[Slice], *, until_stable: bool = True, bad: tuple[int, int] = (0, 0), most: int = 10) -> Meter:
    waiting = iter(slices)

    def take() -> list[Slice]:
        found = next(waiting, None)
        return [] if found is None else [found]

    return Meter(1.0, most, 0.1, until_stable, 0.01, take, lambda: bad)


def looks(meter: Meter, most: int = 1000) -> int:
    return next((n + 1 for n in range(most) if not meter.look()), most)


def test_it_measures_until_three_windows_agree() -> None:
    rates = [100, 50, 200, *[100] * 20]
    steady = meter([piece(n / 10, rates[n // 10]) for n in range(200)])
    assert looks(steady) == 60
    assert steady.ended == "stable"
    assert [w["completed"] for w in steady.result()["windows"]] == [1000, 500, 2000, 1000, 1000, 1000]
    assert steady.result()["stable"] is True


def test_it_gives_up_what_never_becomes_stable() -> None:
    shaky = meter([piece(n / 10, 100 if n // 10 % 2 else 200) for n in range(200)], most=5)
    assert looks(shaky) == 50
    assert (shaky.ended, shaky.result()["stable"]) == ("unstable", False)


def test_a_window_needs_requests() -> None:
    slow = meter([piece(n / 10, 3) for n in range(100)])
    looks(slow, 40)
    assert [w.completed for w in slow.windows] == [51, 51]
    assert all(w.completed >= FEWEST for w in slow.windows)


def test_a_given_length_ends_by_itself_but_errors_end_it() -> None:
    steady = [piece(n / 10, 100) for n in range(100)]
    assert looks(meter(steady, until_stable=False), 100) == 100
    failing = meter(steady, until_stable=False, bad=(1000, 11))
    assert (looks(failing), failing.ended) == (1, "errors")
    assert looks(meter(steady, until_stable=False, bad=(99, 99)), 100) == 100


def test_a_long_run_takes_no_more_room() -> None:
    long = meter([piece(n / 10, 100, 50.0 + n % 2) for n in range(9000)], until_stable=False)
    looks(long, 9000)
    assert len(long.slices) < 4000
    whole = join(long.slices)
    assert (whole.completed, whole.seconds) == (900_000, pytest.approx(900))
    assert whole.mean_us == pytest.approx(50.5)
    assert long.slices[0].p95_us == pytest.approx(101)


# Bounds


def rows(rate: float, latency: float, count: int = 40, noise: float = 0.05, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    found = np.zeros((count, 8))
    found[:, 0] = np.arange(count) / 10
    found[:, 1] = 0.1
    found[:, 2] = np.round(rate / 10 * random.normal(1, noise, count))
    found[:, 4:8] = latency * random.normal(1, noise, (count, 1))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_same_twice_is_no_regression(seed: int) -> None:
    old, new = rows(10_000, 100, seed=seed), rows(10_000, 100, seed=seed + 100)
    changes = [compare.Change(metric, compare.ratio(new, old, metric), 0.1) for metric in compare.METRICS]
    assert all(change.ratio.low < 1.05 and change.ratio.high > 0.95 for change in changes)
    assert compare.judge("c", changes, "base").verdict == Verdict.PASS


@pytest.mark.parametrize(("metric", "new"), [("throughput", rows(8_000, 100)), ("p95", rows(10_000, 125))])
def test_a_fifth_worse_is_a_regression(metric: str, new: Any) -> None:
    change = compare.Change(metric, compare.ratio(new, rows(10_000, 100, seed=9), metric), 0.1)
    assert change.worse
    check = compare.judge("c", [change], "base")
    assert check.verdict == Verdict.FAIL
    assert "worse than base by more than 10%" in check.sentence
    assert not compare.Change(metric, change.ratio, 0.5).worse


def test_better_is_no_regression() -> None:
    better, old = rows(20_000, 50), rows(10_000, 100, seed=1)
    changes = [compare.Change(metric, compare.ratio(better, old, metric), 0.1) for metric in compare.METRICS]
    check = compare.judge("c", changes, "base")
    assert check.verdict == Verdict.PASS
    assert "not excluded" not in check.sentence


def test_too_little_is_unknown_and_much_noise_is_said() -> None:
    old = rows(10_000, 100)
    few = compare.Change("throughput", compare.ratio(rows(5_000, 100, count=5), old, "throughput"), 0.1)
    assert compare.judge("c", [few], "base").verdict == Verdict.UNKNOWN
    none = compare.ratio(np.empty((0, 8)), old, "p95")
    assert math.isnan(none.ratio)
    assert none.high == math.inf
    noisy = rows(9_500, 100, noise=0.6, count=12)
    wide = compare.Change("throughput", compare.ratio(noisy, old, "throughput"), 0.1)
    assert "not excluded" in compare.judge("c", [wide], "base").sentence


def test_what_others_took_is_no_regression() -> None:
    old, new = rows(10_000, 100), rows(7_000, 140, seed=1)

    def verdict(disturbed: float, *metrics: str) -> Verdict:
        changes = [compare.Change(metric, compare.ratio(new, old, metric), 0.1, disturbed) for metric in metrics]
        return compare.judge("c", changes, "base").verdict

    assert verdict(0.0, "throughput", "p95") == verdict(0.04, "throughput", "p95") == Verdict.FAIL
    assert verdict(0.4, "throughput", "p95") == Verdict.UNKNOWN
    assert verdict(0.1, "throughput", "p95") == Verdict.FAIL  # a tenth of the machine is not three tenths of the rate
    assert verdict(0.1, "p95") == Verdict.UNKNOWN


def test_slices_that_resemble_their_neighbours_widen_the_interval() -> None:
    random = np.random.default_rng(3)
    wave = rows(10_000, 100, count=100, noise=0)
    wave[:, 2] *= 1 + 0.3 * np.sin(np.arange(100) / 16)
    mixed = wave[random.permutation(100)]
    old = rows(10_000, 100, count=100, noise=0)
    widths = [compare.ratio(new, old, "throughput") for new in (wave, mixed)]
    assert widths[0].high - widths[0].low > 1.5 * (widths[1].high - widths[1].low)


def test_the_seed_decides_the_bounds() -> None:
    old, new = rows(10_000, 100), rows(9_000, 100, seed=1)
    assert compare.ratio(new, old, "p95", seed=1) == compare.ratio(new, old, "p95", seed=1)
    assert compare.ratio(new, old, "p95", seed=1) != compare.ratio(new, old, "p95", seed=2)


def test_rounds_cancel_what_drifts() -> None:
    # Each round the machine is as fast as it likes; B is always a fifth slower than A.
    speeds = [10_000, 4_000, 20_000, 7_000, 15_000, 9_000]
    pairs = [(rows(rate, 100, 10, seed=n), rows(0.8 * rate, 125, 10, seed=n + 50)) for n, rate in enumerate(speeds)]
    assert compare.Change("throughput", compare.paired_ratio(pairs, "throughput"), 0.1).worse
    assert compare.Change("p95", compare.paired_ratio(pairs, "p95"), 0.1).worse
    same = [(a, rows(rate, 100, 10, seed=n + 90)) for n, ((a, _), rate) in enumerate(zip(pairs, speeds, strict=True))]
    found = compare.paired_ratio(same, "throughput")
    assert 0.93 < found.low < 1.02
    assert found.high < 1.1
    assert compare.paired_ratio(pairs[:4], "throughput").high == math.inf


# The plan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", [4]),
        ("1,2,8", [1, 2, 8]),
        ("1:4", [1, 2, 3, 4]),
        ("1:8:3", [1, 4, 7]),
        ("1:16:x2", [1, 2, 4, 8, 16]),
        ("1,1:2", [1, 2]),
    ],
)
def test_ranges(text: str, expected: list[float]) -> None:
    assert plan.numbers("--concurrency", text, whole=True) == expected
    assert plan.numbers("--rate", "0.5:1.5:0.5", whole=False) == [0.5, 1.0, 1.5]


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "8:1", "1:8:0", "1:8:x1", "a", "1:9999", "nan", "1:2:3:4"])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="give whole numbers above 0"):
        plan.numbers("--concurrency", text, whole=True)


def test_sides_take_turns() -> None:
    options = {"points": [{"concurrency": 1, "rate": None}], "two_sides": True, "rounds": 4}
    assert "".join(step.side for step in plan.steps(options)) == "ABBAABBA"


def test_weights_and_shapes() -> None:
    assert plan.weighted(["a", "b:2.5"]) == [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 2.5}]
    assert plan.shapes(["IN:1x16", "SCALAR:"]) == {"IN": [1, 16], "SCALAR": []}
    for wrong in (["a:0"], ["a:x"], [":1"], ["a", "a:2"]):
        with pytest.raises(UsageError, match="-m"):
            plan.weighted(wrong)
    for text in ("IN", ":1", "IN:1xa", "IN:-1"):
        with pytest.raises(UsageError, match="--shape"):
            plan.shapes([text])


def test_times() -> None:
    assert [plan.seconds("--x", text) for text in ("200ms", "90", "90s", "10m", "2h")] == [0.2, 90, 90, 600, 7200]
    for text in ("", "soon", "-1s", "1d"):
        with pytest.raises(UsageError, match="is no duration"):
            plan.seconds("--x", text)


def test_slowness_is_a_fault_of_perf() -> None:
    assert split_fault("slow:2,wrong_values") == (2, "wrong_values")
    with pytest.raises(UsageError, match="slow:MILLISECONDS"):
        split_fault("slow")


# Inputs


def model(datatype: str = "FP32", shape: list[int] | None = None, batch: int = 0) -> dict[str, Any]:
    return {
        "name": "m",
        "inputs": [{"name": "IN", "datatype": datatype, "shape": [2, 3] if shape is None else shape}],
        "max_batch_size": batch,
    }


def options(**changes: Any) -> dict[str, Any]:
    usual = {"batch": 1, "shapes": {}, "models": [{"name": "m"}], "input_data": None, "zero": False}
    return {**usual, **changes}


@pytest.mark.parametrize("datatype", [kind.name for kind in tc.DataType if kind != tc.DataType.INVALID])
def test_inputs_of_every_datatype(datatype: str) -> None:
    sets = input_sets(model(datatype), options())
    assert len(sets) == SETS
    assert all(entry["IN"].shape == (2, 3) for entry in sets)
    assert any((sets[0]["IN"] != entry["IN"]).any() for entry in sets[1:])
    assert all((a["IN"] == b["IN"]).all() for a, b in zip(sets, input_sets(model(datatype), options()), strict=True))
    (zeros,) = input_sets(model(datatype), options(zero=True))
    assert all(value in (0, b"0") for value in zeros["IN"].flat)
    assert tc.DataType[datatype].name in {tc.tensor.datatype_of(zeros["IN"]).name, "BF16"}


@pytest.mark.parametrize(("leak", "expected"), [(0.0, Verdict.PASS), (2.0, Verdict.FAIL)])
def test_a_long_step_is_watched_for_growth(leak: float, expected: Verdict) -> None:
    chosen = {
        "duration": plan.LONG,
        "protocol": "c-api",
        "two_sides": False,
        "points": [{"concurrency": 1, "rate": None}],
    }
    samples: list[dict[str, Any]] = [{"operations": 0, "heap_in_use": 1, "descriptors": 1, "threads": 1}] * 3
    for number in range(60):  # the warm-up's have no requests; then noise of some KiB around a level, or a slope
        heap = 10_000_000 + leak * number * 10_000 + 5_000 * ((number * 7) % 5)
        samples.append({"operations": number * 10_000, "heap_in_use": heap, "descriptors": 8, "threads": 9})
    checks = list(_perf_checks.growth(Run(chosen, Ended("ended", 0, 1.0, []), samples)))
    assert [check.name for check in checks] == ["growth of heap_in_use", "growth of descriptors", "growth of threads"]
    assert [check.verdict for check in checks] == [expected, Verdict.PASS, Verdict.PASS]
    assert not list(_perf_checks.growth(Run({**chosen, "duration": 5.0}, Ended("ended", 0, 1.0, []), samples)))
    (unseen, *_) = _perf_checks.growth(Run(chosen, Ended("ended", 0, 1.0, []), []))
    assert unseen.verdict is Verdict.UNKNOWN


def test_shapes_and_batches() -> None:
    with pytest.raises(UsageError, match=r"has \[-1, 3\] there \(the first is the batch, which --batch says\)"):
        input_sets(model(shape=[-1, 3], batch=4), options(shapes={"IN": [4, 3]}))
    with pytest.raises(UsageError, match="elements are too many"):
        input_sets(model(shape=[-1]), options(shapes={"IN": [99_999_999_999]}))
    assert input_sets(model(shape=[-1, 3], batch=4), options(batch=4))[0]["IN"].shape == (4, 3)
    assert input_sets(model(shape=[-1, -1], batch=4), options(batch=2, shapes={"IN": [5]}))[0]["IN"].shape == (2, 5)
    assert input_sets(model(shape=[]), options(shapes={"IN": []}))[0]["IN"].shape == ()
    for given, text in (
        (options(batch=2), "--batch 2: model m takes no batches"),
        (options(shapes={"IN": [2, 4]}), r"--shape IN:2x4: model m has \[2, 3\] there"),
        (options(shapes={"OUT": [1]}), "has no such input; it has IN"),
    ):
        with pytest.raises(UsageError, match=text):
            input_sets(model(), given)
    with pytest.raises(UsageError, match=r"dynamic shape .* say which one to send: --shape IN:1x3"):
        input_sets(model(shape=[-1, 3]), options())


def test_inputs_from_files(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    np.savez(tmp_path / "in.npz", IN=values)
    (one,) = input_sets(model(), options(input_data=str(tmp_path / "in.npz")))
    assert one["IN"].tolist() == values.reshape(2, 3).tolist()
    several = {"data": [{"IN": [1, 2, 3, 4, 5, 6]}, {"IN": {"content": ["6", "5"], "shape": [2]}}]}
    (tmp_path / "in.json").write_text(json.dumps(several))
    dynamic = model("BYTES", [-1])
    first, second = input_sets(dynamic, options(input_data=str(tmp_path / "in.json")))
    assert first["IN"].tolist() == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert second["IN"].tolist() == [b"6", b"5"]
    for content, text in (
        ("{", "Expecting"),
        ("[]", "neither"),
        ('{"OTHER": [1]}', "there is no IN"),
        ('{"IN": [1, 2]}', "is not FP32 of shape"),
        ('{"IN": "x"}', "is not FP32"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UsageError, match=f"--input-data .*{text}"):
            input_sets(model(), options(input_data=str(tmp_path / "bad.json")))


def test_validator() -> None:
    a, b = np.array([5, 6], np.int32), np.array([1, 2], np.int32)
    sums = Validator("add_sub", {"m": [{"INPUT0": a, "INPUT1": b}]})
    assert sums.wrong("m", 0, {"OUTPUT0": a + b, "OUTPUT1": a - b}) == ""
    assert sums.wrong("m", 0, {"OUTPUT0": a + b, "OUTPUT1": a}) == "OUTPUT1[0] is 5, expected 4"
    assert sums.wrong("m", 0, {"OUTPUT0": a + b}) == "OUTPUT1 is missing"
    assert "has shape [1]" in sums.wrong("m", 0, {"OUTPUT0": a[:1], "OUTPUT1": a})
    same = Validator("same", {})
    nan = np.array([math.nan, 1.0])
    assert same.wrong("m", 0, {"OUT": nan}) == same.wrong("m", 0, {"OUT": nan.copy()}) == ""
    assert same.wrong("m", 1, {"OUT": nan + 1}) == ""  # other inputs
    assert "OUT[1] is 2.0, the first answer" in same.wrong("m", 0, {"OUT": nan + 1})


# What clients tell


@pytest.mark.triton
def test_tally_cuts_slices_by_when_requests_ended(library: tc.Library) -> None:
    second = 1_000_000_000
    tally = Tally(["a", "b"], rated=True, slice_ns=second // 10)
    tally.begin(0)
    step = second // 100
    told = [[(n + 1) * step - 1, 1000, 900, n % 2, 0 if n % 10 == 9 else -1] for n in range(25)]
    tally.add(told[1::2], ["INTERNAL"])  # two clients: neither's rows are in the other's order
    assert list(tally.slices(0)) == []
    tally.add(told[::2], ["INTERNAL"])
    whole = list(tally.slices(second // 5))
    assert [(piece.completed, piece.errors) for piece in whole] == [(10, 1), (10, 1)]
    assert whole[1].start_s == pytest.approx(0.1)
    assert whole[0].mean_us == whole[0].p95_us == 1.0
    (rest,) = tally.slices(0, over=True)
    assert (rest.completed, rest.seconds) == (5, pytest.approx(0.05))
    tally.finish({"messages": {"INTERNAL": "why"}, "wrong_texts": ["x"], **dict.fromkeys(COUNTED, 2)})
    totals = tally.totals("duration")
    assert (totals.completed, totals.latency.count, dict(totals.codes)) == (25, 23, {"INTERNAL": 2})
    assert totals.naive is not None
    assert totals.naive.largest == 900
    assert [(part.completed, part.errors) for part in totals.models] == [(13, 0), (12, 2)]
    assert sum(part.completed for part in totals.intervals) == 25
    assert totals.validated == 2


COUNTED = ("validated", "wrong", "cancels", "sequences", "unsent")


# Baselines


def test_a_baseline_is_found_by_its_name(tmp_path: Path) -> None:
    path = baseline.path_of(tmp_path, "nightly-2.51")
    point = {"throughput": 1, "percentiles_us": {}, "requests": 1, "stable": True, "slices": rows(1000, 1).tolist()}
    saved = {"version": baseline.VERSION, "name": "nightly", "points": {"concurrency 1": point}}
    baseline.save(path, saved)
    assert baseline.load(path, "nightly-2.51")["points"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["nightly-2.51.json"]
    for name in ("../up", "", ".hidden", "a b"):
        with pytest.raises(UsageError, match="use letters"):
            baseline.path_of(tmp_path, name)
    with pytest.raises(UsageError, match=r"--compare other: .*there are nightly-2\.51"):
        baseline.load(tmp_path / "other.json", "other")
    for broken in ("{", "[]", '{"version": 0, "points": {}}', '{"version": 1, "points": {"c": {"slices": [[1]]}}}'):
        path.write_text(broken)
        with pytest.raises(UsageError, match="holds no baseline"):
            baseline.load(path, "nightly-2.51")


# The command line


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.main, ["perf", *words])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--concurrency", "0"], "--concurrency 0: give whole numbers"),
        (["--concurrency", "1", "--rate", "5"], "exclude each other"),
        (["--poisson"], "--poisson needs --rate"),
        (["--in-flight", "5"], "--in-flight needs --rate"),
        (["--concurrency", "99999999"], "at most 65,536 requests out"),
        (["--cancel-rate", "nan"], "is no share"),
        (["--duration", "soon"], "--duration 'soon' is no duration"),
        (["--duration", "0s"], "give a time above 0"),
        (["--duration", "1s", "--requests", "5"], "exclude each other"),
        (["--window", "1ms"], "a window lasts 50ms at least"),
        (["-m", "resnet"], "without -r there are add_sub"),
        (["-r", "/tmp"], "-r needs -m"),
        (["-r", "/nowhere", "-m", "x"], "there is no such directory"),
        (["-m", "add_sub:0"], "a weight above 0"),
        (["--validate"], "--validate is for models of your own"),
        (["--shape", "INPUT0:1"], "--shape is for models of your own"),
        (["--protocol", "http", "-o", "gpu:0"], "over http tensors go from and to the CPU"),
        (["--protocol", "http", "--cancel-rate", "0.1"], "HTTP cannot cancel"),
        (["--fault", "melt"], "unknown fault 'melt'"),
        (["--fault", "leak_fd"], "only in one step of --duration 60s"),
        (["--fault", "slow:1"], "slowness shows only with"),
        (["-m", "add_sub_int32_python", "--fault", "crash"], "--fault needs native models"),
        (["--ab", "/nowhere"], "there is no such file"),
        (["--ab", "/tmp", "--ab-model", "add_sub"], "exclude each other"),
        (["--ab-model", "add_sub", "--save", "x"], "--save keeps one side"),
        (["--compare", "x"], "there are none"),
        (["--compare", ""], "--compare is empty"),
        (["--timeout", "1", "--duration", "2s"], "would end the run"),
        (["--csv", "/nowhere/x.csv"], "--csv /nowhere/x.csv: cannot be written"),
        (["--peer", "perf_analyzer", "--rate", "5"], "compared by --concurrency"),
    ],
)
def test_usage_errors(words: list[str], text: str, tmp_path: Path) -> None:
    done = invoke(*words, "--runs", str(tmp_path / "runs"))
    assert done.exit_code == 2, done.output
    assert text in done.output
    assert "Traceback" not in done.output
