"""Histograms against NumPy's percentiles, and series that outgrow their memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tritoncapi as tc
from tritoncapi.histogram import RELATIVE_ERROR

SECOND = 1_000_000_000
PERCENTS = (0, 1, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 100)


def agree(histogram: tc.Histogram, values: np.ndarray) -> None:
    assert histogram.count == len(values)
    assert histogram.smallest == values.min()
    assert histogram.largest == values.max()
    assert histogram.mean == pytest.approx(float(values.mean()))
    for percent in PERCENTS:
        # A share such as 0.999 of a round number may lie on either side of it: then both neighbours are right.
        exact = [np.percentile(values, min(100, max(0, percent + d)), method="inverted_cdf") for d in (-1e-9, 0, 1e-9)]
        found = histogram.percentile(percent)
        assert any(abs(found - float(one)) <= RELATIVE_ERROR * float(one) for one in exact), percent


@settings(max_examples=150, deadline=None)
@given(values=st.lists(st.integers(0, 2**47 - 1), min_size=1, max_size=300))
def test_percentiles_are_within_the_stated_error(library: tc.Library, values: list[int]) -> None:
    agree(tc.Histogram(values), np.array(values, np.uint64))


@pytest.mark.parametrize("seed", range(4))
def test_many_values_of_one_shape(library: tc.Library, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = (random.lognormal(10 + 3 * seed, 1.5, 50_000)).astype(np.uint64)
    agree(tc.Histogram(values), values)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 129, 255, 256, 2**46, 2**47 - 1])
def test_one_value_is_exact(library: tc.Library, value: int) -> None:
    histogram = tc.Histogram([value])
    assert {histogram.percentile(percent) for percent in PERCENTS} == {value}


def test_the_buckets_hold_every_value_within_the_error(library: tc.Library) -> None:
    for exponent in range(47):
        for value in {2**exponent, 2**exponent + 1, 2 ** (exponent + 1) - 1}:
            [(middle, count)] = tc.Histogram([value]).buckets()
            assert count == 1
            assert abs(middle - value) <= RELATIVE_ERROR * value


def test_values_beyond_the_range_share_the_last_bucket(library: tc.Library) -> None:
    histogram = tc.Histogram([5, 2**47, 2**60, 2**63])
    assert (histogram.count, histogram.largest) == (4, 2**63)
    assert histogram.percentile(50) == 2**63
    assert [count for _, count in histogram.buckets()] == [1, 3]


def test_an_empty_one(library: tc.Library) -> None:
    histogram = tc.Histogram()
    assert (histogram.count, histogram.mean, histogram.smallest, histogram.largest) == (0, 0, 0, 0)
    assert histogram.percentile(99) == 0
    assert list(histogram.buckets()) == []
    assert "empty" in repr(histogram)


def test_the_share_above(library: tc.Library) -> None:
    histogram = tc.Histogram([10, 20, 30, 1_000_000])
    assert [histogram.share_above(value) for value in (0, 10, 25, 2_000_000)] == [1.0, 0.75, 0.5, 0.0]
    assert tc.Histogram().share_above(0) == 0.0


@pytest.mark.parametrize("percent", [-0.1, 100.1])
def test_a_percentile_outside(library: tc.Library, percent: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        tc.Histogram([1]).percentile(percent)


def test_merged_is_as_if_recorded_into_one(library: tc.Library) -> None:
    left, right = np.arange(1, 5000, dtype=np.uint64), np.arange(100_000, 200_000, 7, dtype=np.uint64)
    merged = tc.Histogram(left)
    merged.merge(tc.Histogram(right))
    merged.merge(tc.Histogram())
    agree(merged, np.concatenate([left, right]))


def test_threads_may_record_at_once(library: tc.Library) -> None:
    histogram = tc.Histogram()
    values = np.arange(200_000, dtype=np.uint64)
    threads = [threading.Thread(target=histogram.record_many, args=(values,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    agree(histogram, np.tile(values, 4))
    assert sum(count for _, count in histogram.buckets()) == 800_000


def test_a_series(library: tc.Library) -> None:
    series = tc.Series()
    for time_ns, latency, failed in ((0, 10, False), (SECOND - 1, 30, True), (2 * SECOND, 5, False)):
        series.add(time_ns, latency, failed=failed)
    first, second, third = series.intervals
    assert (first.start_s, first.width_s, first.completed, first.errors) == (0, 1, 2, 1)
    assert (first.mean_ns, first.largest_ns) == (20, 30)
    assert (second.completed, second.mean_ns) == (0, 0)
    assert (third.start_s, third.completed) == (2, 1)


@pytest.mark.parametrize(("seconds", "width"), [(4096, 1), (4097, 2), (8193, 4), (12 * 86400, 256)])
def test_a_series_keeps_its_memory_and_loses_nothing(library: tc.Library, seconds: int, width: int) -> None:
    series = tc.Series()
    step = max(1, seconds // 5000)
    times = range(0, seconds, step)
    for second in (*times, seconds - 1):
        series.add(second * SECOND, second)
    intervals = series.intervals
    assert len(intervals) <= 4096
    assert {interval.width_s for interval in intervals} == {width}
    assert sum(interval.completed for interval in intervals) == len(times) + 1
    assert intervals[-1].start_s <= seconds - 1 < intervals[-1].start_s + width
    assert intervals[-1].largest_ns == seconds - 1


def test_series_of_different_widths_are_merged(library: tc.Library) -> None:
    narrow, wide = tc.Series(), tc.Series()
    for second in range(10):
        narrow.add(second * SECOND, 1)
    wide.add(5000 * SECOND, 1)
    for into, other in ((narrow, wide), (wide, tc.Series())):
        into.merge(other)
    assert [interval.completed for interval in narrow.intervals[:6]] == [2, 2, 2, 2, 2, 0]
    assert narrow.intervals[2500].completed == 1
    assert sum(interval.completed for interval in wide.intervals) == 1
