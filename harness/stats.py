"""Statistics that the checkers stand on: slopes with bounds, warm-up, percentiles, ratios of medians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Judgement = Literal["below", "above", "open"]
_MOST = 2000  # points; a slope is made of all pairs of them


@dataclass(frozen=True)
class Slope:
    """A slope and its confidence bounds, in y a unit of x, from ``n`` points. Too few points: infinite bounds."""

    slope: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Ratio:
    """A ratio and its confidence bounds."""

    ratio: float
    low: float
    high: float


def fewest_points(confidence: float = 0.95) -> int:
    """How many points bounds of a slope need: 5 at 95 %.

    Even if every pair rises, n points in random order do so in 1 of n! cases: below that no bound holds as asked.
    """
    _check_confidence(confidence)
    n = 2
    while 2 / math.factorial(n) > 1 - confidence:
        n += 1
    return n


def theil_sen(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> Slope:
    """The median of the slopes of all pairs of points, with Sen's bounds (``scipy.stats.theilslopes``).

    A straight or constant y has bounds equal to its slope. With fewer distinct x than ``fewest_points`` the bounds are
    infinite; with fewer than two the slope is NaN. More than 2000 points are first thinned to medians of neighbours.
    """
    import numpy as np  # noqa: PLC0415
    from scipy.stats import theilslopes  # noqa: PLC0415

    xs, ys = _points(x, y)
    n, distinct, needed = len(xs), len(np.unique(xs)), fewest_points(confidence)
    if distinct < 2:
        return Slope(math.nan, -math.inf, math.inf, n)
    if n > _MOST:
        xs, ys = (np.array([np.median(part) for part in np.array_split(values, _MOST)]) for values in (xs, ys))
    if distinct >= needed and not np.ptp(ys):  # of ties alone, in x too, the bounds' variance may be below 0
        return Slope(0.0, 0.0, 0.0, n)
    # Differences are what counts: large levels would only cost digits.
    with np.errstate(invalid="ignore"):  # with too few different x the bounds' variance may be below 0
        found = theilslopes(ys - ys[0], xs - xs[0], confidence)
    if distinct < needed or not np.isfinite(found[2:4]).all():
        return Slope(float(found[0]), -math.inf, math.inf, n)
    return Slope(float(found[0]), float(found[2]), float(found[3]), n)


def judge_slope(slope: Slope, budget: float) -> Judgement:
    """Which side of the budget both bounds are on; ``open`` when it lies between them, or when there are none."""
    if slope.high < budget:
        return "below"
    if slope.low > budget:
        return "above"
    return "open"


def warm_up_end(y: Sequence[float], x: Sequence[float] | None = None) -> int:
    """How many first points are warm-up: where one change of level or slope explains y best; at most half of them.

    Two least-squares lines, one on each side, are put against one line over all. The change counts only if Bayes'
    information criterion is better with it, each of its parameters weighing double, since neighbours are correlated.
    So a straight leak is not cut, nor is noise; a ramp or a step in the first half is. Below 10 points nothing is cut.
    """
    import numpy as np  # noqa: PLC0415

    xs, ys = _points(range(len(y)) if x is None else x, y)
    n = len(ys)
    if n < 10 or np.ptp(ys) == 0 or np.ptp(xs) == 0:
        return 0
    xs, ys = (xs - xs.mean()) / np.ptp(xs), (ys - ys.mean()) / np.ptp(ys)
    sums = [np.concatenate(([0.0], np.cumsum(values))) for values in (np.ones(n), xs, ys, xs * xs, xs * ys, ys * ys)]
    cuts = np.arange(1, n // 2 + 1)
    before = _residual(*(total[cuts] for total in sums))
    after = _residual(*(total[-1] - total[cuts] for total in sums))
    whole = float(_residual(*(total[-1] for total in sums)))
    least = n * 1e-12  # below it, differences are rounding
    if whole <= least:
        return 0
    cut = int(np.argmin(before + after))
    gain = n * math.log(whole / max(float(before[cut] + after[cut]), least))
    return int(cuts[cut]) if gain > 2 * 3 * math.log(n) else 0


def is_step(x: Sequence[float], y: Sequence[float]) -> bool:
    """Whether two levels explain y better than a straight line does (Bayes' information criterion)."""
    import numpy as np  # noqa: PLC0415

    xs, ys = _points(x, y)
    n = len(ys)
    if n < 3 or np.ptp(ys) == 0 or np.ptp(xs) == 0:
        return False
    xs, ys = (xs - xs.mean()) / np.ptp(xs), (ys - ys.mean()) / np.ptp(ys)
    line = float(_residual(n, xs.sum(), ys.sum(), (xs * xs).sum(), (xs * ys).sum(), (ys * ys).sum()))
    cuts = np.arange(1, n)
    left = np.cumsum(ys)[:-1]
    between = left**2 / cuts + (ys.sum() - left) ** 2 / (n - cuts)
    step = float((ys * ys).sum() - between.max())
    least = n * 1e-12  # below it, differences are rounding
    return n * math.log(max(step, least)) + math.log(n) < n * math.log(max(line, least))


def _residual(n: Any, x: Any, y: Any, xx: Any, xy: Any, yy: Any) -> Any:
    """What is left of y's squares around a line; around the mean where there are fewer than three points."""
    import numpy as np  # noqa: PLC0415

    sxx, sxy, syy = xx - x * x / n, xy - x * y / n, yy - y * y / n
    flat = (sxx < 1e-12) | (n < 3)
    explained = np.where(flat, 0.0, sxy * sxy / np.where(flat, 1.0, sxx))
    return np.maximum(syy - explained, 0.0)


def percentiles(values: Sequence[float], points: Sequence[float] = (50, 90, 95, 99)) -> dict[float, float]:
    """Percentiles by nearest rank: each is a value that was seen, and p % of all values are not above it."""
    if not values:
        raise ValueError("there are no values")
    ordered = sorted(values)
    if any(math.isnan(value) for value in ordered):
        raise ValueError("a value is not a number")
    found = {}
    for point in points:
        if not 0 <= point <= 100:
            raise ValueError(f"{point} is no percentile")
        rank = math.ceil(Fraction(str(point)) * len(ordered) / 100)
        found[point] = ordered[max(rank, 1) - 1]
    return found


def ratio_of_medians(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Ratio:
    """median(a) / median(b) with percentile bootstrap bounds; the same seed gives the same bounds.

    Values must be above 0. With fewer than 5 in a or b the bounds are 0 and infinite.
    """
    import numpy as np  # noqa: PLC0415

    _check_confidence(confidence)
    both = [np.asarray(values, dtype=float) for values in (a, b)]
    for values in both:
        if values.size == 0 or not np.all(np.isfinite(values)) or values.min() <= 0:
            raise ValueError("a ratio of medians needs finite values above 0")
    ratio = float(np.median(both[0]) / np.median(both[1]))
    if min(values.size for values in both) < 5:
        return Ratio(ratio, 0.0, math.inf)
    random = np.random.default_rng(seed)
    medians = []
    for values in both:
        part = max(1, 4_000_000 // values.size)  # resamples at once: at most 32 MB of them
        sizes = [min(part, resamples - start) for start in range(0, resamples, part)]
        medians.append(
            np.concatenate([np.median(random.choice(values, (size, values.size)), axis=1) for size in sizes])
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians[0] / medians[1], [tail, 1 - tail])
    return Ratio(ratio, float(low), float(high))


def _points(x: Sequence[float], y: Sequence[float]) -> tuple[Any, Any]:
    import numpy as np  # noqa: PLC0415

    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if xs.shape != ys.shape or xs.ndim != 1:
        raise ValueError(f"x and y must be rows of the same length, not {xs.shape} and {ys.shape}")
    if not (np.all(np.isfinite(xs)) and np.all(np.isfinite(ys))):
        raise ValueError("x and y must be finite")
    return xs, ys


def _check_confidence(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"the confidence must be from 0.5 to below 1, not {confidence}")
