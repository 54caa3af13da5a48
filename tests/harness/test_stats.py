"""Statistics: bounds that hold, warm-up that is cut, and no certainty from too little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats import (
    Slope,
    fewest_points,
    is_step,
    judge_slope,
    percentiles,
    ratio_of_medians,
    theil_sen,
    warm_up_end,
)

FLAT = 500e6


def noise(n: int, seed: int = 0, size: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(0, size, n)


# Slopes


@pytest.mark.parametrize(("confidence", "fewest"), [(0.5, 3), (0.9, 4), (0.95, 5), (0.99, 6), (0.999, 7)])
def test_fewest_points(confidence: float, fewest: int) -> None:
    assert fewest_points(confidence) == fewest
    x = list(range(fewest))
    assert theil_sen(x, x, confidence) == Slope(1.0, 1.0, 1.0, fewest)
    few = theil_sen(x[:-1], x[:-1], confidence)
    assert few == Slope(1.0, -math.inf, math.inf, fewest - 1)
    assert judge_slope(few, 2.0) == "open"


def test_slope_without_two_places() -> None:
    for x, y in [([], []), ([1], [2]), ([1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6])]:
        found = theil_sen(x, y)
        assert math.isnan(found.slope)
        assert (found.low, found.high, found.n) == (-math.inf, math.inf, len(x))
        assert judge_slope(found, 1.0) == "open"


def test_many_samples_at_few_places_are_still_few() -> None:
    assert theil_sen([1] * 10 + [2] * 10, range(20)).high == math.inf


def test_a_constant_y_over_an_x_that_comes_twice() -> None:
    x = [*range(1799), 1798]  # two samples between which nothing was done
    assert theil_sen(x, [8.0] * 1800) == Slope(0.0, 0.0, 0.0, 1800)


def test_constant_and_straight_y_have_exact_bounds() -> None:
    x = list(range(20))
    assert theil_sen(x, [FLAT] * 20) == Slope(0, 0, 0, 20)
    found = theil_sen(x, [FLAT + 3 * at for at in x])
    assert (found.slope, found.low, found.high) == (3, 3, 3)


def test_outliers_hardly_move_the_slope() -> None:
    y = [2.0 * at for at in range(40)]
    y[5], y[30] = 1e9, -1e9
    assert theil_sen(range(40), y).slope == pytest.approx(2)


def test_bounds_hold_as_often_as_they_say() -> None:
    x = np.arange(20.0)
    held = 0
    for seed in range(400):
        found = theil_sen(x.tolist(), (0.3 * x + noise(20, seed)).tolist())
        held += found.low <= 0.3 <= found.high
    assert 0.92 < held / 400 < 0.98


def test_many_points_are_thinned_and_still_tell() -> None:
    x = np.arange(30_000.0)
    found = theil_sen(x.tolist(), (0.01 * x + noise(30_000, size=5)).tolist())
    assert found.n == 30_000
    assert found.low <= 0.01 <= found.high
    assert found.slope == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1]), ([1, 2], [1, math.nan]), ([1, math.inf], [1, 2])])
def test_points_that_are_none(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="x and y must be"):
        theil_sen(x, y)


def test_confidence_is_a_share() -> None:
    for confidence in (0, 0.05, 1, 95):
        with pytest.raises(ValueError, match=r"from 0\.5 to below 1"):
            theil_sen([1, 2], [1, 2], confidence)


@pytest.mark.parametrize(
    ("slope", "said"),
    [
        (Slope(1, 0.5, 1.5, 9), "below"),
        (Slope(3, 2.5, 3.5, 9), "above"),
        (Slope(2, 1.5, 2.5, 9), "open"),
        (Slope(1, 0.5, 2.0, 9), "open"),
        (Slope(3, 2.0, 3.5, 9), "open"),
        (Slope(math.nan, -math.inf, math.inf, 1), "open"),
        (Slope(math.nan, math.nan, math.nan, 1), "open"),
    ],
)
def test_judgement(slope: Slope, said: str) -> None:
    assert judge_slope(slope, 2.0) == said


# Warm-up


def test_warm_up_step_is_cut_where_it_is() -> None:
    for at in (1, 3, 8, 19, 20):
        y = FLAT + 8e6 * (np.arange(40) >= at) + noise(40, at, 1e4)
        assert warm_up_end(y.tolist()) == at


def test_warm_up_ramp_is_cut() -> None:
    y = FLAT + 1e6 * np.minimum(np.arange(40), 12) + noise(40, 0, 1e4)
    assert 11 <= warm_up_end(y.tolist()) <= 14


def test_at_most_half_is_cut() -> None:
    y = FLAT + 8e6 * (np.arange(40) >= 30)
    assert warm_up_end(y.tolist()) <= 20


def test_a_leak_a_constant_and_too_few_are_not_cut() -> None:
    assert warm_up_end([FLAT + 1e6 * at for at in range(40)]) == 0
    assert warm_up_end([FLAT] * 40) == 0
    assert warm_up_end([0, 0, 0, 9, 9, 9, 9, 9, 9]) == 0
    assert warm_up_end([]) == 0


def test_noise_is_seldom_cut() -> None:
    cut = [warm_up_end(noise(40, seed).tolist()) > 0 for seed in range(300)]
    assert sum(cut) / 300 < 0.03


def test_a_noisy_leak_is_seldom_cut() -> None:
    cut = [warm_up_end((np.arange(40) + noise(40, seed)).tolist()) > 0 for seed in range(300)]
    assert sum(cut) / 300 < 0.03


def test_warm_up_with_uneven_cycles() -> None:
    x = np.cumsum([1, 50, 2, 2, 30, 1, 1, 9, 9, 9, 9, 9.0])
    assert warm_up_end((2 * x).tolist(), x.tolist()) == 0


def test_step_or_line() -> None:
    x = np.arange(40.0)
    assert is_step(x.tolist(), (x >= 24).tolist())
    assert is_step(x.tolist(), (8 * (x >= 24) + noise(40)).tolist())
    assert not is_step(x.tolist(), x.tolist())
    assert not is_step(x.tolist(), (x + noise(40)).tolist())
    assert not is_step(x.tolist(), (x // 13).tolist())
    assert not is_step(x.tolist(), [FLAT] * 40)
    assert not is_step([1, 2], [1, 2])


# Percentiles


def test_percentiles_are_values_that_were_seen() -> None:
    values = list(range(100, 0, -1))
    found = percentiles(values, (0, 1, 7, 50, 99, 99.9, 100))
    assert found == {0: 1, 1: 1, 7: 7, 50: 50, 99: 99, 99.9: 100, 100: 100}
    assert percentiles([3.0]) == {50: 3, 90: 3, 95: 3, 99: 3}


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.integers(0, 100))
def test_percentiles_by_definition(values: list[float], point: int) -> None:
    found = percentiles(values, [point])[point]
    assert found in values
    assert 100 * sum(value <= found for value in values) >= point * len(values)
    assert 100 * sum(value < found for value in values) <= point * len(values)


def test_percentiles_of_nothing() -> None:
    for values, points in [([], [50]), ([math.nan], [50]), ([1.0], [101])]:
        with pytest.raises(ValueError, match=r"no values|not a number|no percentile"):
            percentiles(values, points)


# Ratios


def test_ratio_of_medians() -> None:
    a, b = (20 + noise(60, 1)).tolist(), (10 + noise(60, 2)).tolist()
    found = ratio_of_medians(a, b)
    assert found.low < 2 < found.high
    assert found.low < found.ratio < found.high
    assert found.high - found.low < 0.4
    assert ratio_of_medians(a, b) == found
    assert ratio_of_medians(a, b, seed=1) != found
    assert ratio_of_medians(a, a).low <= 1 <= ratio_of_medians(a, a).high


def test_ratio_from_too_little() -> None:
    assert ratio_of_medians([2.0], [1.0] * 9) == ratio_of_medians([2.0] * 4, [1.0] * 5)
    assert ratio_of_medians([2.0], [1.0]).high == math.inf
    for bad in ([], [0.0], [math.nan], [-1.0]):
        with pytest.raises(ValueError, match="finite values above 0"):
            ratio_of_medians([1.0], bad)
