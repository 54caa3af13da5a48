"""perf's comparison: how one measurement's ratio to another is bounded, and what is said of it.

Method: a moving-block bootstrap. Neighbouring slices (tenths of a window) are drawn together in blocks of about the
square root of their number, since they resemble each other; both sides are drawn 4000 times, and the 2.5 % and 97.5 %
quantiles of the ratios bound it. With interleaved sides whole rounds are drawn instead, each with its own ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.stats import Ratio
from harness.verdict import Check, failed, passed, unknown

FEWEST_SLICES = 10
FEWEST_ROUNDS = 5
DISTURBED = 0.05  # of the machine
RESAMPLES = 4000
METRICS = ("throughput", "p50", "p95")
_COLUMN = {"p50": 5, "p95": 6}  # of a slice's row
_SECONDS, _COMPLETED, _ERRORS = 1, 2, 3
_MOST = 4000  # slices; more are too many to draw again and again

Rows = npt.NDArray[np.float64]


def rows_of(step: Mapping[str, Any]) -> Rows:
    """A step's slices in which something ended well: (n, 8) numbers as Slice.row() has them."""
    found = np.array(step["slices"], float).reshape(-1, 8)
    return found[found[:, _SECONDS] > 0][:_MOST]


def value(rows: Rows, metric: str) -> float:
    """Successful requests a second, or the mean over all requests of their slice's percentile in us."""
    return float(_values(rows[None], metric)[0])


def _values(drawn: npt.NDArray[np.float64], metric: str) -> npt.NDArray[np.float64]:
    """The metric of each of (draws, slices, 8)."""
    good = drawn[..., _COMPLETED] - drawn[..., _ERRORS]
    if metric == "throughput":
        found: npt.NDArray[np.float64] = good.sum(axis=1) / drawn[..., _SECONDS].sum(axis=1)
        return found
    total = good.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: npt.NDArray[np.float64] = (drawn[..., _COLUMN[metric]] * good).sum(axis=1) / total
    return mean


def _draw(rows: Rows, metric: str, random: np.random.Generator) -> npt.NDArray[np.float64]:
    count = len(rows)
    length = max(1, math.isqrt(count - 1) + 1)
    blocks = -(-count // length)
    parts = []
    at_once = max(1, 2_000_000 // (count * rows.shape[1]))
    for start in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - start)
        begins = random.integers(0, count - length + 1, (draws, blocks))
        chosen = (begins[..., None] + np.arange(length)).reshape(draws, -1)[:, :count]
        parts.append(_values(rows[chosen], metric))
    return np.concatenate(parts)


def ratio(new: Rows, old: Rows, metric: str, seed: int = 0) -> Ratio:
    """new / old with 95 % bounds, by the method above; with fewer than 10 slices the bounds are 0 and infinite."""
    if not len(new) or not len(old):
        return Ratio(math.nan, 0.0, math.inf)
    before = value(old, metric)
    found = value(new, metric) / before if before > 0 else math.nan
    if min(len(new), len(old)) < FEWEST_SLICES or not math.isfinite(found):
        return Ratio(found, 0.0, math.inf)
    random = np.random.default_rng(seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = _draw(new, metric, random) / _draw(old, metric, random)
    return _bounds(found, drawn)


def paired_ratio(pairs: Sequence[tuple[Rows, Rows]], metric: str, seed: int = 0) -> Ratio:
    """B / A over rounds of (A, B): their ratios' geometric mean, whole rounds drawn again and again."""
    logs = []
    for a, b in pairs:
        first, second = (value(rows, metric) if len(rows) else 0.0 for rows in (a, b))
        if first > 0 and second > 0:
            logs.append(math.log(second / first))
    if not logs:
        return Ratio(math.nan, 0.0, math.inf)
    found = math.exp(sum(logs) / len(logs))
    if len(logs) < FEWEST_ROUNDS:
        return Ratio(found, 0.0, math.inf)
    random = np.random.default_rng(seed)
    drawn = np.exp(random.choice(np.array(logs), (RESAMPLES, len(logs))).mean(axis=1))
    return _bounds(found, drawn)


def _bounds(found: float, drawn: npt.NDArray[np.float64]) -> Ratio:
    usable = drawn[np.isfinite(drawn)]
    if len(usable) < RESAMPLES * 0.99:  # so few requests that some draws had none
        return Ratio(found, 0.0, math.inf)
    low, high = np.quantile(usable, [0.025, 0.975])
    return Ratio(found, float(low), float(high))


@dataclass(frozen=True)
class Change:
    """How a metric changed, and what may be lost: ``allowed`` is a share, 0.1 for 10 %."""

    metric: str
    ratio: Ratio
    allowed: float
    disturbed: float = 0.0
    """The share of the machine that others took more than before; it may explain that much of a change."""

    @property
    def bounded(self) -> bool:
        """Whether there were enough slices or rounds for bounds."""
        return math.isfinite(self.ratio.high)

    @property
    def worse(self) -> bool:
        """Whether the whole interval is worse than what is allowed."""
        return self.bounded and self._beyond(1.0)

    @property
    def explained(self) -> bool:
        """Whether others' work may be why: a slowed queue has no bound, a throughput loses what they took."""
        if self.disturbed < DISTURBED:
            return False
        return self.metric != "throughput" or not self._beyond(1 - self.disturbed)

    def _beyond(self, left: float) -> bool:
        if self.metric == "throughput":
            return self.ratio.high < (1 - self.allowed) * left
        return self.ratio.low > (1 + self.allowed) / left

    @property
    def open(self) -> bool:
        """Whether the interval reaches to where it would be worse than allowed, but not wholly."""
        if self.metric == "throughput":
            return not self.worse and self.ratio.low < 1 - self.allowed
        return not self.worse and self.ratio.high > 1 + self.allowed

    def __str__(self) -> str:
        name = self.metric if self.metric == "throughput" else f"{self.metric} latency"
        bounds = f"{self.ratio.low:.3f} to {self.ratio.high:.3f}" if self.bounded else "no bounds"
        return f"{name} x {self.ratio.ratio:.3f} ({bounds})"


def judge(name: str, changes: Sequence[Change], against: str) -> Check:
    """The verdict on one point: failed only where a whole interval is worse than allowed."""
    allowed = changes[0].allowed
    evidence = {
        change.metric: {"ratio": change.ratio.ratio, "low": change.ratio.low, "high": change.ratio.high}
        for change in changes
    }
    text = "; ".join(map(str, changes))
    worse = [change for change in changes if change.worse and not change.explained]
    excused = [change for change in changes if change.worse and change.explained]
    if excused and not worse:
        text = f"{text}, but others took {changes[0].disturbed:.0%} more of the machine than then: measure again"
        return unknown(name, text, **evidence)
    if worse:
        text = "; ".join(map(str, worse))
        return failed(name, f"worse than {against} by more than {allowed:.0%}: {text}", **evidence)
    if not all(change.bounded for change in changes):
        few = f"fewer than {FEWEST_SLICES} slices or {FEWEST_ROUNDS} rounds"
        return unknown(name, f"too little was measured for an interval ({few}): {text}", **evidence)
    note = f"; a change of more than {allowed:.0%} is not excluded" if any(change.open for change in changes) else ""
    return passed(name, f"against {against}: {text}{note}", **evidence)
