"""Histogram and Series: what many durations, or a long run, come down to in constant memory. See native/histogram.c."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._library import Library, load
from ._native import Cell

RELATIVE_ERROR = 2.0**-8
"""A percentile is off by this share of itself at most. The smallest and the largest value are exact, as the mean is."""

_CELLS = 4096
_WIDTH_NS = 1_000_000_000


class Histogram:
    """Whole numbers from 0 up, here always nanoseconds; those above 39 hours share one bucket. 42 KiB.

    Any number of threads may record at once.
    """

    def __init__(self, values: Iterable[int] | npt.NDArray[np.uint64] = (), *, library: Library | None = None) -> None:
        self._native = (library or load()).native
        self._memory = ctypes.create_string_buffer(self._native.histogram_size() + 8)
        start = ctypes.addressof(self._memory)
        self.address = start + -start % 8
        self._native.histogram_clear(self.address)
        array = values if isinstance(values, np.ndarray) else np.fromiter(values, np.uint64)
        self.record_many(array)

    def record(self, value: int) -> None:
        """Adds one value."""
        self._native.histogram_record(self.address, value)

    def record_many(self, values: npt.NDArray[np.uint64]) -> None:
        """Adds all values of an array, without the interpreter lock."""
        array = np.ascontiguousarray(values, np.uint64)
        self._native.histogram_record_many(self.address, array.ctypes.data, array.size)

    def merge(self, other: Histogram) -> None:
        """Adds what the other one holds."""
        self._native.histogram_merge(self.address, other.address)

    def percentile(self, percent: float) -> int:
        """The smallest value that at least ``percent`` % of all are not above; 0 when there is none."""
        if not 0 <= percent <= 100:
            raise ValueError(f"a percentile lies between 0 and 100, not at {percent}")
        return int(self._native.histogram_quantile(self.address, percent / 100))

    def share_above(self, value: int) -> float:
        """The share (0 to 1) of values in buckets whose middle is above this one; 0 when there is no value."""
        buckets = list(self.buckets())
        return sum(count for middle, count in buckets if middle > value) / max(1, sum(count for _, count in buckets))

    def _totals(self) -> tuple[int, int, int, int]:
        totals = (ctypes.c_uint64 * 4)()
        self._native.histogram_totals(self.address, totals)
        return totals[0], totals[1], totals[2], totals[3]

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return self._totals()[0]

    @property
    def mean(self) -> float:
        """Their mean; 0 when there is none."""
        count, total, *_ = self._totals()
        return total / count if count else 0.0

    @property
    def smallest(self) -> int:
        """0 when there is none."""
        return self._totals()[2]

    @property
    def largest(self) -> int:
        """0 when there is none."""
        return self._totals()[3]

    def buckets(self) -> Iterator[tuple[int, int]]:
        """Value (the bucket's middle) and count of the buckets that are not empty, in order."""
        middles, counts = self.arrays()
        full = np.flatnonzero(counts)
        return zip(middles[full].tolist(), counts[full].tolist(), strict=True)

    def arrays(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """The middles and the counts of all buckets, in order; each histogram has the same buckets."""
        size = self._native.histogram_read(self.address, None, None, 0)
        counts, middles = (ctypes.c_uint64 * size)(), (ctypes.c_uint64 * size)()
        self._native.histogram_read(self.address, counts, middles, size)
        return np.frombuffer(middles, np.uint64), np.frombuffer(counts, np.uint64)

    def __repr__(self) -> str:
        if not self.count:
            return "<Histogram, empty>"
        shares = ", ".join(f"p{p:g} {self.percentile(p) / 1000:.1f}" for p in (50, 99))
        return f"<Histogram of {self.count}: {shares}, largest {self.largest / 1000:.1f} us>"


@dataclass(frozen=True)
class Interval:
    """What ended within one interval of a run. ``start_s`` is seconds since the run began, latencies are ns."""

    start_s: float
    width_s: float
    completed: int
    errors: int
    mean_ns: float
    largest_ns: int


class Series:
    """What ended when: 4096 intervals of a second each; when all are used, neighbours are joined and the width doubles.

    So a second for 68 minutes, 32 s for a day and a half, 256 s for twelve days, in 128 KiB. One thread at a time.
    """

    def __init__(self, library: Library | None = None) -> None:
        self._native = (library or load()).native
        self._memory = ctypes.create_string_buffer(self._native.series_size() + 8)
        start = ctypes.addressof(self._memory)
        self.address = start + -start % 8
        self._native.series_begin(self.address, 0)

    def add(self, time_ns: int, latency_ns: int, *, failed: bool = False) -> None:
        """A request that ended ``time_ns`` after the beginning."""
        self._native.series_add(self.address, time_ns, latency_ns, failed)

    def merge(self, other: Series) -> None:
        """Adds what the other one holds."""
        self._native.series_merge(self.address, other.address)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """From the beginning to the last one in which something ended."""
        cells, width = (Cell * _CELLS)(), ctypes.c_int64()
        used = self._native.series_read(self.address, cells, _CELLS, ctypes.byref(width))
        seconds = width.value / _WIDTH_NS
        return tuple(
            Interval(
                start_s=index * seconds,
                width_s=seconds,
                completed=cell.completed,
                errors=cell.errors,
                mean_ns=cell.latency_sum_ns / cell.completed if cell.completed else 0.0,
                largest_ns=cell.latency_max_ns,
            )
            for index, cell in enumerate(cells[:used])
        )
