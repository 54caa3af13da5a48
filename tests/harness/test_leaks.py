"""Leak checks: planted leaks are found, what is none is not called one, and too little is unknown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from harness.leaks import amount, growth_check, leak_checks, level_check, zombie_check
from harness.verdict import Check, Verdict

KIB, MIB = 1 << 10, 1 << 20
BASE = 500 * MIB
BUDGET = 32 * KIB  # a cycle
N = 41  # samples, four cycles apart: 160 cycles
T = 4.0 * np.arange(N)


def noise(size: float, seed: int = 1, n: int = N) -> Any:
    return np.random.default_rng(seed).normal(0, size, n)


def samples(values: Any, figure: str = "heap_in_use", step: int = 4) -> list[dict[str, Any]]:
    return [{"cycles": at * step, figure: float(value)} for at, value in enumerate(values)]


def heap(values: Any, budget: float = BUDGET) -> Check:
    check = growth_check(samples(values), "heap_in_use", budget)
    json.dumps(check.as_json(), allow_nan=False)
    return check


# Planted leaks


def test_linear_leak_fails() -> None:
    check = heap(BASE + 1.02 * MIB * T + noise(300 * KIB))
    assert check.verdict == Verdict.FAIL
    assert check.name == "growth of heap_in_use"
    assert check.sentence == (
        "heap in use grows by 1.02 MiB a life cycle (95 % bounds 1.02 to 1.02 MiB, budget 32 KiB) "
        "over 160 life cycles, from 500 MiB to 663 MiB"
    )
    assert check.evidence["low"] <= 1.02 * MIB <= check.evidence["high"]
    assert check.evidence["samples"] == N
    assert check.evidence["cycles"] == 160


@pytest.mark.parametrize("seed", range(5))
def test_leak_just_above_the_budget_fails(seed: int) -> None:
    assert heap(BASE + 40 * KIB * T + noise(100 * KIB, seed)).verdict == Verdict.FAIL


def test_leak_after_warm_up_fails() -> None:
    for warm_up in (50 * MIB * (T > 12), -100 * MIB * (T > 12), 50 * MIB * (1 - np.exp(-T / 10))):
        check = heap(BASE + warm_up + 256 * KIB * T + noise(100 * KIB))
        assert check.verdict == Verdict.FAIL, check.sentence
        assert check.evidence["slope"] == pytest.approx(256 * KIB, rel=0.3)


def test_leak_in_lumps_fails() -> None:
    check = heap(BASE + 8 * MIB * (T // 32) + noise(50 * KIB))
    assert check.verdict == Verdict.FAIL
    assert check.evidence["slope"] == pytest.approx(256 * KIB, rel=0.2)


def test_leak_that_is_freed_no_more_from_the_start_fails_with_five_samples() -> None:
    assert heap([BASE + MIB * at for at in range(5)]).verdict == Verdict.FAIL


def test_leaking_requests() -> None:
    figures = [{"operations": 1000 * at, "heap_in_use": BASE + 8_000.0 * at} for at in range(20)]
    check = growth_check(figures, "heap_in_use", 1, "request")
    assert check.verdict == Verdict.FAIL
    assert "grows by 8 B a request (95 % bounds 8 to 8 B, budget 1 B) over 19000 requests" in check.sentence


# What is no leak


def test_constant_passes() -> None:
    check = heap([BASE] * N)
    assert check.verdict == Verdict.PASS
    assert check.sentence == (
        "heap in use grows by 0 B a life cycle (95 % bounds 0 to 0 B, budget 32 KiB) over 160 life cycles, "
        "from 500 MiB to 500 MiB"
    )


@pytest.mark.parametrize("seed", range(20))
def test_noise_around_a_constant_passes(seed: int) -> None:
    assert heap(BASE + noise(200 * KIB, seed)).verdict == Verdict.PASS


@pytest.mark.parametrize("at", [1, 4, 10, 20])
def test_warm_up_step_passes(at: int) -> None:
    check = heap(BASE + 8 * MIB * (np.arange(N) >= at) + noise(100 * KIB))
    assert check.verdict == Verdict.PASS
    assert check.evidence["warm_up_samples"] == at
    assert "of warm-up)" in check.sentence


@pytest.mark.parametrize("at", [22, 25, 30, 34, 38, 40])
@pytest.mark.parametrize("size", [50 * KIB, 2 * MIB])
@pytest.mark.parametrize("warm_up", [0, 50 * MIB])
def test_one_step_after_warm_up_is_no_leak(at: int, size: int, warm_up: int) -> None:
    warm = warm_up * (np.arange(N) >= 3)
    check = heap(BASE + warm + 8 * MIB * (np.arange(N) >= at) + noise(size))
    assert check.verdict != Verdict.FAIL


def test_one_step_where_the_bounds_alone_would_say_leak() -> None:
    check = heap(BASE + 8 * MIB * (np.arange(N) >= 24) + noise(2 * MIB, 0))
    assert check.evidence["low"] > BUDGET
    assert check.verdict == Verdict.UNKNOWN
    assert "one step explains that better than steady growth; about 41 more samples (160 life cycles)" in check.sentence


@pytest.mark.parametrize("period", [3, 5, 7])
def test_saw_tooth_passes(period: int) -> None:
    assert heap(BASE + 10 * MIB * (np.arange(N) % period) / period).verdict == Verdict.PASS


@pytest.mark.parametrize("period", [13, 20, 27])
@pytest.mark.parametrize("phase", range(0, 27, 4))
def test_long_saw_tooth_is_no_leak(period: int, phase: int) -> None:
    check = heap(BASE + 10 * MIB * ((np.arange(N) + phase) % period) / period)
    assert check.verdict != Verdict.FAIL, check.sentence


def test_saw_tooth_whose_bounds_alone_would_say_leak() -> None:
    check = heap(BASE + 100 * MIB * (np.arange(N) % 21) / 21)
    assert check.evidence["low"] > BUDGET
    assert check.verdict == Verdict.UNKNOWN
    assert "the low points of its three thirds (500 MiB, 500 MiB, " in check.sentence


def test_falling_passes() -> None:
    check = heap(BASE - 100 * KIB * T)
    assert check.verdict == Verdict.PASS
    assert check.sentence.startswith("heap in use falls by 100 KiB a life cycle (95 % bounds -100 to -100 KiB, ")


# What cannot be told


@pytest.mark.parametrize("seed", range(20))
def test_slow_leak_in_noise_does_not_pass(seed: int) -> None:
    for size in (MIB, 5 * MIB, 20 * MIB):
        check = heap(BASE + 80 * KIB * T + noise(size, seed))
        assert check.verdict != Verdict.PASS, check.sentence


def test_open_bounds_say_what_would_help() -> None:
    check = heap(BASE + noise(6 * MIB, 8))
    assert check.verdict == Verdict.UNKNOWN
    assert "the bounds do not tell; about " in check.sentence
    more = int(check.sentence.split("about ")[1].split()[0])
    assert 0 < more < 400
    assert heap(BASE + noise(6 * MIB, 8, N + 2 * more)).verdict == Verdict.PASS


def test_growth_by_about_the_budget() -> None:
    check = heap(BASE + BUDGET * T)
    assert check.verdict == Verdict.UNKNOWN
    assert "far more samples are needed, or another budget" in check.sentence


@pytest.mark.parametrize(("n", "few"), [(1, "1 sample"), (2, "2 samples"), (4, "4 samples")])
def test_few_samples_are_unknown(n: int, few: str) -> None:
    for step in (0, 10 * MIB):
        check = heap([BASE + step * at for at in range(n)])
        assert check.verdict == Verdict.UNKNOWN
        assert f"{few} at different counts of life cycles are too few to judge by; " in check.sentence
        assert f"at least {5 - n} more would help" in check.sentence


def test_many_samples_of_one_cycle_are_few() -> None:
    check = growth_check([{"cycles": 3, "heap_in_use": BASE}] * 50, "heap_in_use", BUDGET)
    assert check.verdict == Verdict.UNKNOWN
    assert "1 sample at different counts" in check.sentence


def test_no_samples_are_unknown() -> None:
    for nothing in ([], [{"heap_in_use": 5.0}]):
        assert growth_check(nothing, "heap_in_use", BUDGET).verdict == Verdict.UNKNOWN


def test_leak_that_begins_late_does_not_pass() -> None:
    for begins in (100, 128, 140):
        check = heap(BASE + MIB * np.maximum(0, T - begins))
        assert check.verdict == Verdict.UNKNOWN, check.sentence


def test_late_rise_says_how_many_cycles_would_tell() -> None:
    check = heap(BASE + 8 * MIB * (np.arange(N) >= 36))
    assert check.verdict == Verdict.UNKNOWN
    assert "but the last fifth of it lies 8 MiB above the first; 124 more life cycles would tell" in check.sentence
    assert check.evidence["late_rise"] == 8 * MIB


# Counts


def test_descriptor_leak_of_one_a_cycle_fails() -> None:
    check = growth_check(samples([14 + 4 * at for at in range(N)], "descriptors"), "descriptors", 0.02)
    assert check.verdict == Verdict.FAIL
    assert check.sentence == (
        "the number of open descriptors grows by 1 a life cycle (95 % bounds 1 to 1, budget 0.02) "
        "over 160 life cycles, from 14 to 174"
    )
    assert (check.evidence["first"], check.evidence["last"]) == (14, 174)


def test_thread_leak_in_some_cycles_fails() -> None:
    values = np.floor(20 + 0.1 * T)
    assert growth_check(samples(values, "threads"), "threads", 0.02).verdict == Verdict.FAIL


def test_one_more_descriptor_is_no_leak() -> None:
    for at in (1, 10, 20, 30, 40):
        values = 14 + (np.arange(N) >= at)
        check = growth_check(samples(values, "descriptors"), "descriptors", 0.02)
        assert check.verdict == Verdict.PASS, check.sentence
        assert check.sentence.endswith("to 15")


def test_counts_that_flicker_pass() -> None:
    values = 14 + np.random.default_rng(0).integers(0, 3, N)
    assert growth_check(samples(values, "children"), "children", 0.05).verdict == Verdict.PASS


# Missing figures


def test_missing_figure_is_skipped_with_the_reason() -> None:
    gone = [{"cycles": at, "missing": {"gpu_process_bytes": "NVML: Not Supported"}} for at in range(9)]
    check = growth_check(gone, "gpu_process_bytes", BUDGET)
    assert check.verdict == Verdict.SKIPPED
    assert check.sentence == "GPU memory of this process: NVML: Not Supported"
    check = growth_check(samples([1] * 9), "rss", BUDGET)
    assert check.verdict == Verdict.SKIPPED
    assert check.sentence == "resident memory (RSS): no sample has it"


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "7", True])
def test_what_is_no_number_is_missing(value: Any) -> None:
    assert growth_check([{"cycles": 1, "rss": value}], "rss", BUDGET).verdict == Verdict.SKIPPED


def test_figure_that_goes_missing_is_unknown() -> None:
    figures = samples([BASE] * N)
    for sample in figures[10:]:
        del sample["heap_in_use"]
        sample["missing"] = {"heap_in_use": "the probe heap broke"}
    check = growth_check(figures, "heap_in_use", BUDGET)
    assert check.verdict == Verdict.UNKNOWN
    assert check.sentence == "heap in use: missing in 31 of 41 samples (the probe heap broke)"


def test_a_sample_or_two_may_lack_a_figure() -> None:
    figures = samples([BASE] * N)
    del figures[7]["heap_in_use"], figures[20]["heap_in_use"]
    check = growth_check(figures, "heap_in_use", BUDGET)
    assert check.verdict == Verdict.PASS
    assert check.evidence["samples"] == N - 2


def test_samples_may_come_in_any_order() -> None:
    assert growth_check(samples(BASE + MIB * T)[::-1], "heap_in_use", BUDGET).verdict == Verdict.FAIL


@pytest.mark.parametrize("budget", [0, -1, math.nan])
def test_budgets_are_above_0(budget: float) -> None:
    with pytest.raises(ValueError, match="the budget of rss must be above 0"):
        growth_check([], "rss", budget)


# Zombies, levels, all of them


def verdicts(checks: Sequence[Check]) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in checks}


def test_zombies() -> None:
    fine, bad = {"cycles": 1, "zombies": 0}, {"cycles": 2, "zombies": 1, "zombie_names": ["7 (stub)"]}
    assert zombie_check([bad, fine]).verdict == Verdict.PASS
    check = zombie_check([fine, bad])
    assert check.verdict == Verdict.FAIL
    assert check.sentence == "1 dead child not reaped at the end: 7 (stub)"
    assert zombie_check([{"zombies": 2}]).sentence == "2 dead children not reaped at the end"
    assert zombie_check([]).verdict == Verdict.UNKNOWN
    assert zombie_check([fine, {"cycles": 2}]).verdict == Verdict.SKIPPED
    assert zombie_check([{"missing": {"zombies": "no /proc"}}]).sentence == "zombies: no /proc"


def test_levels() -> None:
    check = level_check("gpu_process_bytes", 300 * MIB, 300 * MIB, MIB, when="after the last server")
    assert check.verdict == Verdict.PASS
    assert check.sentence == (
        "GPU memory of this process is back at its first level after the last server "
        "(from 300 MiB to 300 MiB, tolerance 1 MiB)"
    )
    assert level_check("gpu_process_bytes", 300 * MIB, 0, 0).verdict == Verdict.PASS
    check = level_check("gpu_process_bytes", 0, 64 * MIB, MIB)
    assert check.verdict == Verdict.FAIL
    assert check.sentence == (
        "GPU memory of this process is 64 MiB above its first level at the end (from 0 B to 64 MiB, tolerance 1 MiB)"
    )
    assert level_check("gpu_process_bytes", 0, MIB, MIB).verdict == Verdict.PASS
    assert level_check("shm_entries", 0, 1, 0).verdict == Verdict.FAIL


def test_levels_that_are_missing() -> None:
    check = level_check("gpu_process_bytes", None, 5, 0, "NVML: Not Supported")
    assert check.verdict == Verdict.SKIPPED
    assert check.sentence == "GPU memory of this process: NVML: Not Supported"
    assert level_check("rss", None, 5, 0).sentence == "resident memory (RSS): not known before the first server"
    assert level_check("rss", 5, None, 0).sentence == "resident memory (RSS): not known at the end"
    assert level_check("rss", 5, math.nan, 0).verdict == Verdict.UNKNOWN
    with pytest.raises(ValueError, match="the tolerance of rss"):
        level_check("rss", 1, 1, -1)


def test_all_checks() -> None:
    figures = [
        {"cycles": at, "heap_in_use": BASE, "descriptors": 14 + at, "zombies": 0, "missing": {"pss": "none"}}
        for at in range(30)
    ]
    checks = leak_checks(figures, {"heap_in_use": BUDGET, "descriptors": 0.02, "pss": BUDGET})
    assert verdicts(checks) == {
        "growth of heap_in_use": Verdict.PASS,
        "growth of descriptors": Verdict.FAIL,
        "growth of pss": Verdict.SKIPPED,
        "zombies": Verdict.PASS,
    }
    assert set(verdicts(leak_checks([], {"rss": BUDGET})).values()) == {Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("figure", "value", "written"),
    [
        ("rss", 0, "0 B"),
        ("rss", 0.25, "0.25 B"),
        ("rss", 1023, "1023 B"),
        ("rss", 1024, "1 KiB"),
        ("rss", 32 * KIB, "32 KiB"),
        ("rss", 1.02 * MIB, "1.02 MiB"),
        ("rss", 1023.9 * KIB, "1 MiB"),
        ("rss", -1536, "-1.5 KiB"),
        ("rss", 3.25 * 1024 * MIB, "3.25 GiB"),
        ("nv_pinned_memory_pool_used_bytes", 2048, "2 KiB"),
        ("descriptors", 0.02, "0.02"),
        ("descriptors", 1.0, "1"),
        ("descriptors", 0.00123456, "0.00123"),
        ("descriptors", 123456, "123456"),
    ],
)
def test_amounts(figure: str, value: float, written: str) -> None:
    assert amount(figure, value) == written
