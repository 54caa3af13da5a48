"""Charts of latency: percentiles of measured steps or of the operations themselves, and throughput over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .figures import spans_of
from .plain import visible
from .series import seconds, whole
from .steps import Step
from .svg import Frame, Point, Scale, bounds, tag, thinned

DRAWN = 8  # curves in one chart; colours and dashes tell no more apart


@dataclass(frozen=True)
class Curves:
    """A chart of several lines, and what its legend says."""

    chart: Markup
    legend: Sequence[tuple[Markup, str]]
    note: str = ""


def operations(events: Sequence[Mapping[str, Any]]) -> Curves | None:
    """How long operations took, by percentile; None for fewer than two."""
    times = sorted((span.end - span.begin) / 1e3 for span in spans_of(events) if span.end is not None)
    if len(times) < 2:
        return None
    curve = [((n + 1) / len(times), us) for n, us in enumerate(times)]
    return _percentiles([("operations", curve)])


def steps(found: Sequence[Step]) -> Curves | None:
    """Latency by percentile of each step."""
    return _percentiles([(step.name, step.curve) for step in found if step.curve])


def throughput(found: Sequence[Step]) -> Curves | None:
    """Answers a second over each step's own time."""
    lines = [
        (step.name, [(second.start, second.completed / second.seconds) for second in step.series])
        for step in found
        if len(step.series) > 1
    ]
    if not lines:
        return None
    drawn = lines[:DRAWN]
    points = [point for _, line in drawn for point in line]
    frame = Frame(Scale(0, max(x for x, _ in points)), bounds([y for _, y in points], zero=True), seconds, _rate)
    inner = [frame.line(thinned(line, frame.x), f"c{n}") for n, (_, line) in enumerate(drawn)]
    label = "throughput over time, answers a second"
    return Curves(frame.chart(label, inner), _legend([name for name, _ in drawn]), _left_out(lines))


def slowest(found: Sequence[Step]) -> Curves | None:
    """The slowest answer of each second, on a log scale."""
    lines = [
        (step.name, [(second.start, second.max_ns / 1e3) for second in step.series if second.max_ns > 0])
        for step in found
    ]
    lines = [(name, line) for name, line in lines if len(line) > 1]
    if not lines:
        return None
    drawn = lines[:DRAWN]
    points = [point for _, line in drawn for point in line]
    frame = Frame(Scale(0, max(x for x, _ in points)), _decades([y for _, y in points]), seconds, time)
    inner = [frame.line(thinned(line, frame.x), f"c{n}") for n, (_, line) in enumerate(drawn)]
    label = "slowest answer of each second, log scale"
    return Curves(frame.chart(label, inner), _legend([name for name, _ in drawn]), _left_out(lines))


def _percentiles(curves: Sequence[tuple[str, Sequence[Point]]]) -> Curves | None:
    """x: the share that is slower, on a log scale (0 %, 90 %, 99 %, ...); y: latency in us on a log scale."""
    if not curves:
        return None
    drawn = [(name, [(_nines(share), us) for share, us in curve if us > 0]) for name, curve in curves[:DRAWN]]
    drawn = [(name, line) for name, line in drawn if line]
    if not drawn:
        return None
    most = max(max((nines for nines, _ in line if math.isfinite(nines)), default=1.0) for _, line in drawn)
    most = max(1.0, most)
    # The slowest answer of all has no place on a scale of nines: it ends the line at the right edge.
    lines = [(name, [(min(nines, most), us) for nines, us in line]) for name, line in drawn]
    lines = [(name, [(0.0, line[0][1]), *line]) for name, line in lines]
    y = _decades([us for _, line in lines for _, us in line])
    frame = Frame(Scale(0, most), y, _percent, time, 160, _apart([0.0, math.log10(2), *map(float, range(1, 20))], most))
    inner = [frame.line(thinned(line, frame.x), f"c{n}", steps=True) for n, (_, line) in enumerate(lines)]
    label = "latency by percentile, log scale"
    return Curves(frame.chart(label, inner), _legend([name for name, _ in lines]), _left_out(curves))


def _apart(ticks: Sequence[float], most: float) -> list[float]:
    """Those that are on the scale and leave each other room for their labels."""
    kept = [0.0]
    for tick in ticks:
        if tick <= most and tick - kept[-1] >= 0.18 * most:
            kept.append(tick)
    return kept


def _nines(share: float) -> float:
    return -math.log10(1 - share) if share < 1 - 1e-12 else math.inf


def _percent(nines: float) -> str:
    return f"{100 * (1 - 10**-nines):.6g} %"


def _decades(values: Sequence[float]) -> Scale:
    """A log scale that begins and ends at 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    rounds = [factor * 10.0**power for power in range(-4, 13) for factor in (1, 2, 5)]
    below = max((each for each in rounds if each <= low), default=low)
    above = min((each for each in rounds if each >= high * 1.02), default=high)
    return Scale(below, above, log=True)


def _legend(names: Sequence[str]) -> list[tuple[Markup, str]]:
    def swatch(n: int) -> Markup:
        line = tag("line", x1=0, x2=28, y1=6, y2=6, class_=f"line c{n}")
        return tag("svg", line, width=28, height=12, class_="swatch", aria_hidden="true")

    return [(swatch(n), visible(name)) for n, name in enumerate(names)]


def _left_out(lines: Sequence[object]) -> str:
    return f"{DRAWN} of {len(lines)} are drawn; the table has all" if len(lines) > DRAWN else ""


def _rate(value: float) -> str:
    return f"{whole(value)}/s"


def time(us: float) -> str:
    """A time given in us, for people."""
    for unit, size in (("s", 1e6), ("ms", 1e3), ("us", 1.0)):
        if us >= size * 0.9995:
            return f"{us / size:.3g} {unit}"
    return f"{us * 1e3:.3g} ns"
