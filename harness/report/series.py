"""Charts of what was sampled: each figure over time, and over the cycles with the slope that its growth check found."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..leaks import amount, quiescent, unit
from ..verdict import Check
from .figures import series_of
from .plain import number
from .svg import WIDTH, Frame, Point, Scale, bounds, thinned


@dataclass(frozen=True)
class Series:
    """One figure: its charts, and what is said below them."""

    figure: str
    chart: Markup
    note: str
    growth: Markup
    check: Check | None

    @property
    def constant(self) -> bool:
        """Whether it never changed and nothing judged it."""
        return self.note.startswith("constant") and self.check is None


def charts(samples: Sequence[Mapping[str, Any]], checks: Sequence[Check]) -> list[Series]:
    """One for each sampled figure: those that a check judged first, then those that changed, then the constant ones."""
    judged = {
        str(check.evidence["figure"]): check
        for check in checks
        if "figure" in check.evidence and "slope" in check.evidence
    }
    sampled = series_of(samples)
    begin = min((times[0] for times, _ in sampled.values()), default=0.0)
    end = max((times[-1] for times, _ in sampled.values()), default=0.0)
    found = []
    for figure, (times, values) in sampled.items():
        points = [((at - begin) / 1e9, value) for at, value in zip(times, values, strict=True)]
        check = judged.get(figure)
        growth = _growth(figure, samples, check) if check is not None else Markup("")
        over_time, note = _over_time(figure, points, Scale(0, (end - begin) / 1e9))
        if growth and min(values) == max(values):
            over_time = Markup("")  # that chart shows it already
        found.append(Series(figure, over_time, note, growth, check))
    order = {"fail": 0, "unknown": 1, "pass": 2}
    return sorted(found, key=lambda s: (order.get(s.check.verdict.value, 3) if s.check else 4, s.constant))


def _over_time(figure: str, points: Sequence[Point], x: Scale) -> tuple[Markup, str]:
    values = [y for _, y in points]
    drawn = thinned(points, x)
    low, high = min(values), max(values)
    if low == high:
        note = f"constant: {amount(figure, low)} in {len(values):,} samples"
    else:
        ends = f"from {amount(figure, values[0])} to {amount(figure, values[-1])}"
        note = f"{ends}; lowest {amount(figure, low)}, highest {amount(figure, high)}; {len(values):,} samples"
        if len(drawn) < len(points):
            note += f", drawn as the lowest and highest in each of {WIDTH} spans of time"
    y = _scale(figure, values, values)
    frame = Frame(x, y, seconds, _label(figure, y))
    dots = [frame.dot(points[0], "data", amount(figure, low))] if len(points) == 1 else []
    return frame.chart(f"{figure} over time: {note}", [frame.line(drawn, "data")], dots), note


def _growth(figure: str, samples: Sequence[Mapping[str, Any]], check: Check) -> Markup:
    """The judged samples over the cycles, with the check's own slope and bounds through their middle."""
    cycles, values = quiescent(samples, figure)
    points = list(zip(cycles, values, strict=True))
    slope, low, high = (number(check.evidence.get(name)) for name in ("slope", "low", "high"))
    if not points or check.evidence.get("samples") != len(points):
        return Markup("")  # it judged other samples than these
    cut = int(number(check.evidence.get("warm_up_samples")) or 0)
    after = points[cut:]
    fitted: list[Point] = []
    band: list[Point] = []
    if after and slope is not None:
        middle = (statistics.median(x for x, _ in after), statistics.median(y for _, y in after))
        first, last = after[0][0], after[-1][0]
        fitted = [(x, middle[1] + slope * (x - middle[0])) for x in (first, last)]
        if low is not None and high is not None:
            ends = [[(x, middle[1] + bound * (x - middle[0])) for bound in (low, high)] for x in (first, last)]
            band = [ends[0][0], ends[0][1], middle, ends[1][1], ends[1][0], middle]
    x = Scale(min(cycles), max(cycles), whole=True)
    y = _scale(figure, values, [y for _, y in [*fitted, *band]])
    frame = Frame(x, y, whole, _label(figure, y))
    dots = [
        frame.dot(point, "warm" if n < cut else "data", f"{amount(figure, point[1])} after {point[0]:g} cycles")
        for n, point in enumerate(points)
    ]
    if len(dots) > WIDTH // 3:
        dots = []
    lines = [] if dots else [frame.line(thinned(points, x), "data")]
    lines += [frame.area(band, "band")] if band else []
    lines += [frame.line(fitted, "fit")] if fitted else []
    return frame.chart(f"{figure} by the number of cycles: {check.sentence}", lines, dots)


def _scale(figure: str, values: Sequence[float], more: Sequence[float]) -> Scale:
    _, size = unit(figure, max(map(abs, values)))
    return bounds([*values, *more], unit=size, whole=size == 1 and all(value == int(value) for value in values))


def _label(figure: str, y: Scale) -> Callable[[float], str]:
    """As many digits as tell the ticks apart, which three digits that count need not."""
    word, size = unit(figure, max(abs(y.low), abs(y.high)))
    places = max(0, -math.floor(math.log10(y.step(4) / size) + 1e-9))
    return lambda value: f"{value / size:,.{places}f} {word}".rstrip()


def seconds(value: float) -> str:
    """A label of time."""
    return f"{value:g} s" if value else "0"


def whole(value: float) -> str:
    """A label of a count."""
    return f"{value:,.6g}"
