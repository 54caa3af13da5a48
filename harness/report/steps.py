"""Measured steps of a load: latency histograms, percentiles, series by the second.

A journal line is a step when its event, or that of its ``value``, is ``step``. What is read of it, all of it optional:
``throughput`` (answers a second), ``percentiles_us`` ("p50": us), ``histogram_ns`` ([[ns, count], ...], a value being
the bucket's highest), ``series`` ([[start_s, completed, errors, mean_ns, max_ns], ...]). Every other text or number
(``protocol``, ``concurrency``) is part of the step's name, unless it has a ``name``. A series' last row is left out:
it is hardly ever a whole second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .plain import mapping, number, rows

_READ = ("event", "time_ns", "throughput", "percentiles_us", "histogram_ns", "series", "name", "number", "key")
_NAMED = 6  # of a step's own fields that make its name
_POINTS = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)


@dataclass(frozen=True)
class Second:
    """One row of a series: seconds since the step began, their length, answers, errors, latencies in ns."""

    start: float
    seconds: float
    completed: float
    errors: float
    mean_ns: float
    max_ns: float


@dataclass(frozen=True)
class Step:
    """One measured step."""

    name: str
    fields: Mapping[str, str]
    throughput: float | None
    percentiles_us: Mapping[str, float]
    histogram_ns: Sequence[tuple[float, float]]
    series: Sequence[Second]

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Latency by percentile: (share of answers that were at most this slow, us), rising; 1 is the slowest."""
        total = sum(count for _, count in self.histogram_ns)
        points, seen = [], 0.0
        for value, count in self.histogram_ns:
            seen += count
            points.append((seen / total, value / 1000))
        if points:
            return points
        given = ((_point(name), us) for name, us in self.percentiles_us.items())
        return sorted((point / 100, us) for point, us in given if point is not None)


def steps_of(events: Iterable[Mapping[str, Any]]) -> list[Step]:
    """The steps of a journal, in its order; a name that comes again is numbered."""
    found: list[Step] = []
    taken: dict[str, int] = {}
    for event in events:
        value = mapping(event.get("value"))
        line = event if event.get("event") == "step" else value if value.get("event") == "step" else None
        if line is None:
            continue
        own = {str(key): _label(inner) for key, inner in line.items() if key not in _READ and _is_label(inner)}
        name = str(line.get("name") or "") or " ".join(["step", *_words(own)])
        taken[name] = taken.get(name, 0) + 1
        histogram = _histogram(line.get("histogram_ns"))
        found.append(
            Step(
                name=name if taken[name] == 1 else f"{name} ({taken[name]})",
                fields=own,
                throughput=number(line.get("throughput")),
                percentiles_us=_percentiles(line.get("percentiles_us"), histogram),
                histogram_ns=histogram,
                series=_series(line.get("series")),
            )
        )
    return found


def _is_label(value: Any) -> bool:
    return (isinstance(value, str) and len(value) <= 60) or isinstance(value, bool) or number(value) is not None


def _label(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else str(_whole(value))


def _whole(value: Any) -> Any:
    return round(value) if isinstance(value, float) else value


def _words(own: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in own.items()][:_NAMED]


def _histogram(value: Any) -> list[tuple[float, float]]:
    pairs = ((number(pair[0]), number(pair[1])) for pair in rows(value) if len(rows(pair)) >= 2)
    return sorted((at, count) for at, count in pairs if at is not None and count is not None and at > 0 and count > 0)


def _percentiles(value: Any, histogram: Sequence[tuple[float, float]]) -> dict[str, float]:
    given = {str(name): us for name, inner in mapping(value).items() if (us := number(inner)) is not None}
    if given or not histogram:
        return given
    total = sum(count for _, count in histogram)
    found, seen = {}, 0.0
    points = iter(_POINTS)
    point = next(points, None)
    for at, count in histogram:
        seen += count
        while point is not None and seen >= total * point / 100:
            found[f"p{point:g}"] = at / 1000
            point = next(points, None)
    return found


def _point(name: str) -> float | None:
    try:
        point = float(name.lower().removeprefix("p").removesuffix("%"))
    except ValueError:
        return 100.0 if name.lower() == "max" else None
    return point if 0 <= point <= 100 else None


def _series(value: Any) -> list[Second]:
    lines = [[number(cell) or 0.0 for cell in rows(row)] for row in rows(value)]
    lines = sorted([*line, 0.0, 0.0, 0.0, 0.0][:5] for line in lines if len(line) >= 2)
    gaps = [after[0] - before[0] for before, after in pairwise(lines)]
    usual = min((gap for gap in gaps if gap > 0), default=1.0)
    return [Second(line[0], usual, *line[1:]) for line in (lines[:-1] if len(lines) > 1 else lines)]
