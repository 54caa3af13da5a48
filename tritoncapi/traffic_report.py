"""TrafficReport: what came of traffic, in plain data and histograms."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ._library import Library
from ._native import TrafficCounts, TrafficOptions
from ._types import ErrorCode
from .histogram import Histogram, Interval, Series

_LATENCY, _NAIVE, _FIRST, _RELEASE, _LATE = range(5)


class Ending(IntEnum):
    """Why traffic ended (``enum tc_ending``)."""

    RUNNING = 0
    REQUESTS = 1
    DURATION = 2
    STOPPED = 3
    ERRORS = 4
    STALLED = 5


@dataclass(frozen=True)
class TrafficCount:
    """Counts of measured requests, and of all where it says so.

    ``submitted``: taken by Triton, warm-up too: what Triton's own statistics count. ``warmup``: ended, but sent before
    measuring began. ``completed``: ended, ``errors`` of them failed, ``refused`` of those by ``ServerInferAsync``
    itself. ``cancels`` (asked for) and ``sequences`` (begun) are of the warm-up too. ``unsent``: due in an open loop,
    but the time was over first; the latencies that these would have had are missing. ``lost``: never came back.
    ``skipped``: picked for a check, but too many waited.
    """

    submitted: int = 0
    warmup: int = 0
    completed: int = 0
    errors: int = 0
    refused: int = 0
    warmup_refused: int = 0
    responses: int = 0
    cancels: int = 0
    sequences: int = 0
    unsent: int = 0
    lost: int = 0
    samples: int = 0
    skipped: int = 0
    codes: dict[ErrorCode, int] = field(default_factory=dict)

    def __add__(self, other: TrafficCount) -> TrafficCount:
        names = [name for name in self.__dataclass_fields__ if name != "codes"]
        codes = {code: self.codes.get(code, 0) + other.codes.get(code, 0) for code in {*self.codes, *other.codes}}
        return TrafficCount(codes=codes, **{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class TrafficFigures:
    """Counts and latencies of one target, or of all. Histograms are of successful measured requests, in ns.

    ``latency``: from the intended start to the final response. ``naive``: the same from the moment the request was
    really sent; in a closed loop the two are one. ``first``: sent to first response, other than ``naive`` for decoupled
    models only. ``release``: sent to release. ``late``: from due to sent, of all requests of an open
    loop, failed ones too.
    """

    model: str
    counts: TrafficCount
    latency: Histogram
    naive: Histogram
    first: Histogram
    release: Histogram
    late: Histogram

    def percentiles(self, *percents: float) -> dict[float, int]:
        """Percentiles of ``latency`` in ns; by default 50, 90, 95, 99, 99.9, 99.99."""
        return {percent: self.latency.percentile(percent) for percent in percents or (50, 90, 95, 99, 99.9, 99.99)}


@dataclass(frozen=True)
class TrafficReport:
    """What came of traffic. ``elapsed`` is seconds from the first measured request to the last that ended.

    ``messages`` has the first message of each error code; ``wrong`` counts failed checks of ``validated``, the first
    ones' texts are in ``wrong_texts``. ``intervals`` begin with the traffic, its warm-up too, and hold measured ones.
    """

    ending: Ending
    ended: bool
    elapsed: float
    total: TrafficFigures
    targets: tuple[TrafficFigures, ...]
    messages: dict[ErrorCode, str]
    intervals: tuple[Interval, ...]
    validated: int = 0
    wrong: int = 0
    wrong_texts: tuple[str, ...] = ()

    @property
    def counts(self) -> TrafficCount:
        """Those of all targets together."""
        return self.total.counts

    @property
    def latency(self) -> Histogram:
        """From the intended start, of all targets together, in ns."""
        return self.total.latency

    @property
    def throughput(self) -> float:
        """Measured requests a second that ended, failed ones too."""
        return self.counts.completed / self.elapsed if self.elapsed else 0.0

    @property
    def goodput(self) -> float:
        """Measured requests a second that succeeded."""
        return (self.counts.completed - self.counts.errors) / self.elapsed if self.elapsed else 0.0


def read_report(
    library: Library,
    state: Any,
    models: list[str],
    options: TrafficOptions,
    *,
    validated: int,
    wrong: int,
    wrong_texts: tuple[str, ...],
) -> TrafficReport:
    """Reads it from the native traffic, which may be running."""
    native = library.native
    times = (ctypes.c_int64 * 3)()
    ending = Ending(native.traffic_state(state, times))
    targets = tuple(_figures(library, state, index, model, options) for index, model in enumerate(models))
    series = Series(library)
    native.traffic_series(state, series.address)
    messages = {code: native.traffic_message(state, code).decode(errors="replace") for code in ErrorCode}
    counts = sum((target.counts for target in targets), TrafficCount())
    return TrafficReport(
        ending=ending,
        ended=bool(ending) and native.traffic_running(state) == 0,
        elapsed=max(0, times[2] - times[1]) / 1e9 if times[1] else 0.0,
        total=targets[0] if len(targets) == 1 else _sum(library, targets),
        targets=targets,
        messages={code: text for code, text in messages.items() if text or code in counts.codes},
        intervals=series.intervals,
        validated=validated,
        wrong=wrong,
        wrong_texts=wrong_texts,
    )


def _figures(library: Library, state: Any, index: int, model: str, options: TrafficOptions) -> TrafficFigures:
    raw = TrafficCounts()
    library.native.traffic_counts(state, index, ctypes.byref(raw))
    values: dict[str, Any] = {name: getattr(raw, name) for name, *_ in TrafficCounts._fields_}
    values["codes"] = {ErrorCode(code): count for code, count in enumerate(raw.codes) if count}

    def histogram(which: int) -> Histogram:
        found = Histogram(library=library)
        library.native.traffic_histogram(state, index, which, found.address)
        return found

    latency = histogram(_LATENCY)
    naive = histogram(_NAIVE) if options.rate > 0 else latency
    first = histogram(_FIRST)
    return TrafficFigures(
        *(model, TrafficCount(**values), latency, naive, first if first.count else naive),
        *(histogram(_RELEASE), histogram(_LATE)),
    )


def _sum(library: Library, targets: tuple[TrafficFigures, ...]) -> TrafficFigures:
    def histogram(name: str) -> Histogram:
        found = Histogram(library=library)
        for target in targets:
            found.merge(getattr(target, name))
        return found

    counts = sum((target.counts for target in targets), TrafficCount())
    return TrafficFigures("", counts, *(histogram(name) for name in ("latency", "naive", "first", "release", "late")))
