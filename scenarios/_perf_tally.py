"""perf's tally of what client processes tell: the same histograms and series as those of the native load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tritoncapi import Histogram, Series

from ._perf_measure import ModelTotals, Totals
from ._perf_windows import Slice

_END, _LATENCY, _NAIVE, _TARGET, _CODE = range(5)
Rows = npt.NDArray[np.int64]


class Tally:
    """Counts rows of (end, latency, latency from sending, target, code or -1); times are ns."""

    def __init__(self, models: Sequence[str], rated: bool, slice_ns: int) -> None:
        self._models = models
        self._slice_ns = slice_ns
        self.latencies = [Histogram() for _ in models]
        self.naive = Histogram() if rated else None
        self.series = Series()
        self.completed = 0
        self.codes: dict[str, int] = {}
        self._ended = [0] * len(models)
        self._failed = [0] * len(models)
        self._messages: dict[str, str] = {}
        self._begin = self._cut = self._first = self._last = 0
        self._open: list[Rows] = []
        self._done: list[Mapping[str, Any]] = []

    def begin(self, begin_ns: int) -> None:
        """When the first request may be sent."""
        self._begin = self._cut = begin_ns

    def add(self, rows: Sequence[Sequence[int]], codes: Sequence[str]) -> None:
        """What one client tells; ``codes`` are what its rows' code numbers stand for."""
        table = np.array(rows, np.int64).reshape(-1, 5)
        good = table[:, _CODE] < 0
        self.completed += len(table)
        for number, histogram in enumerate(self.latencies):
            mine = table[:, _TARGET] == number
            self._ended[number] += int(mine.sum())
            self._failed[number] += int((mine & ~good).sum())
            histogram.record_many(np.maximum(table[mine & good, _LATENCY], 0).astype(np.uint64))
        if self.naive is not None:
            self.naive.record_many(np.maximum(table[good, _NAIVE], 0).astype(np.uint64))
        for number, count in zip(*np.unique(table[~good, _CODE], return_counts=True), strict=True):
            code = codes[int(number)]
            self.codes[code] = self.codes.get(code, 0) + int(count)
        for end, latency, code in table[:, (_END, _LATENCY, _CODE)].tolist():
            self.series.add(max(0, end - self._begin), max(0, latency), failed=code >= 0)
        starts = int((table[:, _END] - table[:, _LATENCY]).min())
        self._first = min(self._first or starts, starts)
        self._last = max(self._last, int(table[:, _END].max()))
        self._open.append(table)

    def finish(self, done: Mapping[str, Any]) -> None:
        """A client is done."""
        self._done.append(done)
        self._messages = {**done["messages"], **self._messages}

    def slices(self, until_ns: int, *, over: bool = False) -> Iterator[Slice]:
        """The slices that are whole, since all has been told until then; when it is over the last piece too."""
        end = self._last + 1 if over else until_ns
        while self._cut + self._slice_ns <= end:
            yield self._slice(self._cut + self._slice_ns)
        if over and end > self._cut and self._open:
            yield self._slice(end)

    def _slice(self, end: int) -> Slice:
        table = np.concatenate(self._open) if self._open else np.empty((0, 5), np.int64)
        inside = table[:, _END] < end
        rest = table[~inside]
        self._open = [rest] if len(rest) else []
        start, self._cut = self._cut, end
        rows = table[inside]
        good = np.sort(rows[rows[:, _CODE] < 0, _LATENCY]) / 1000

        def at(percent: float) -> float:
            return float(good[int(np.ceil(len(good) * percent / 100)) - 1]) if len(good) else 0.0

        mean = float(good.mean()) if len(good) else 0.0
        errors = len(rows) - len(good)
        seconds = (end - start) / 1e9
        return Slice((start - self._begin) / 1e9, seconds, len(rows), errors, mean, at(50), at(95), at(99))

    def totals(self, why: str) -> Totals:
        """Everything, when all clients are done."""
        latency = Histogram()
        for histogram in self.latencies:
            latency.merge(histogram)
        return Totals(
            ending=why,
            elapsed=(self._last - self._first) / 1e9,
            completed=self.completed,
            codes=self.codes,
            messages=self._messages,
            latency=latency,
            naive=self.naive,
            intervals=self.series.intervals,
            models=[
                ModelTotals(model, self._ended[n], self._failed[n], self._ended[n], self.latencies[n])
                for n, model in enumerate(self._models)
            ],
            wrong_texts=[text for done in self._done for text in done["wrong_texts"]][:10],
            **{name: _sum(self._done, name) for name in ("validated", "wrong", "cancels", "sequences", "unsent")},
        )


def _sum(done: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(int(one[name]) for one in done)
