"""Leak checkers: pure functions of quiescent samples, taken between cycles while nothing is under way.

A sample counts its cycles (life cycles or requests, done since the start) as ``cycles`` or ``operations`` and carries
figures. A figure leaks if it goes on growing by more than its budget a cycle: its Theil-Sen slope is judged by the
confidence bounds, never by one difference. What the bounds cannot tell is unknown, with what more would help.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .stats import Slope, fewest_points, is_step, judge_slope, theil_sen, warm_up_end
from .verdict import Check, failed, passed, skipped, unknown

Sample = Mapping[str, Any]
_CYCLES = ("cycles", "operations")
_BYTES = ("heap_in_use", "rss", "pss")  # and whatever has "bytes" in its name
_NOUNS = {
    "heap_in_use": "heap in use",
    "rss": "resident memory (RSS)",
    "pss": "resident memory (PSS)",
    "descriptors": "the number of open descriptors",
    "threads": "the number of threads",
    "children": "the number of child processes",
    "shm_entries": "the number of shared memory entries",
    "shm_bytes": "shared memory",
    "shm_allocated_bytes": "allocated shared memory",
    "gpu_process_bytes": "GPU memory of this process",
}
_LARGEST_GAP = 0.1  # share of the samples that may lack a figure


@dataclass(frozen=True)
class _Series:
    """One figure over the cycles, in the order of the cycles."""

    x: list[float]
    y: list[float]
    n: int  # samples asked, those without the figure among them
    reason: str = ""  # why it is missing


def leak_checks(
    samples: Sequence[Sample], budgets: Mapping[str, float], cycle: str = "life cycle", confidence: float = 0.95
) -> list[Check]:
    """One check for each budget (bytes or counts a cycle, above 0), and one for zombies."""
    checks = [growth_check(samples, figure, budget, cycle, confidence) for figure, budget in budgets.items()]
    return [*checks, zombie_check(samples)]


def growth_check(
    samples: Sequence[Sample], figure: str, budget: float, cycle: str = "life cycle", confidence: float = 0.95
) -> Check:
    """Does the figure grow by more than ``budget`` a cycle?

    Warm-up is cut first. Pass: the upper bound is below the budget, and the last samples do not stand higher than it
    allows. Fail: the lower bound is above it, a line explains the samples better than one step does, and the low points
    of the three thirds of all samples keep rising, which those of a saw-tooth do not unless it is longer than the run.
    """
    if not budget > 0:
        raise ValueError(f"the budget of {figure} must be above 0, not {budget}")
    name = f"growth of {figure}"
    if not any(_cycles(sample) is not None for sample in samples):
        return unknown(name, f"{_noun(figure)}: there are no samples")
    series = _series(samples, figure)
    if not series.y:
        return skipped(name, f"{_noun(figure)}: {series.reason or 'no sample has it'}")
    gap = series.n - len(series.y)
    if gap > series.n * _LARGEST_GAP:
        why = f" ({series.reason})" if series.reason else ""
        return unknown(name, f"{_noun(figure)}: missing in {gap} of {series.n} samples{why}")
    return _judge(name, figure, series, budget, cycle, confidence)


def _judge(name: str, figure: str, series: _Series, budget: float, cycle: str, confidence: float) -> Check:
    cut = warm_up_end(series.y, series.x)
    x, y = series.x[cut:], series.y[cut:]
    slope = theil_sen(x, y, confidence)
    span = x[-1] - x[0]
    evidence = {
        "figure": figure,
        "budget": budget,
        "slope": _plain(slope.slope),
        "low": _plain(slope.low),
        "high": _plain(slope.high),
        "confidence": confidence,
        "samples": len(series.y),
        "warm_up_samples": cut,
        "cycles": span,
        "first": series.y[0],
        "last": series.y[-1],
    }
    noun = _noun(figure)
    over = f"over {_plural(span, cycle)}{_after(cut)}, from {amount(figure, y[0])} to {amount(figure, y[-1])}"
    needed = fewest_points(confidence)
    distinct = len(set(x))
    if distinct < needed:
        few = f"{_plural(distinct, 'sample')} at different counts of {cycle}s"
        more = f"at least {needed - distinct} more would help"
        return unknown(name, f"{noun}: {few} are too few to judge by; {more} ({over})", **evidence)
    growth = _growth(figure, slope, budget, cycle, confidence)
    judgement = judge_slope(slope, budget)
    if judgement == "above":
        doubt = ""
        low_points = [min(third) for third in _split(series.y, 3)]
        if is_step(x, y):
            doubt = "one step explains that better than steady growth"
        elif not _keeps_rising(series, low_points, budget):
            levels = ", ".join(amount(figure, level) for level in low_points)
            doubt = f"the low points of its three thirds ({levels}) do not keep rising"
        if not doubt:
            return failed(name, f"{noun} {growth} {over}", **evidence, low_points=low_points)
        more = f"about {_plural(distinct, 'more sample')} ({_plural(span, cycle)}) would help"
        return unknown(name, f"{noun} {growth} {over}, but {doubt}; {more}", **evidence, low_points=low_points)
    if judgement == "open":
        more = _more(slope, budget, distinct, span, cycle)
        return unknown(name, f"{noun} {growth} {over}: the bounds do not tell; {more}", **evidence)
    rise, between = _late_rise(x, y)
    if rise > budget * between:
        more = f"{_plural(math.ceil(rise / budget - between), f'more {cycle}')} would tell a step from a leak"
        late = f"but the last fifth of it lies {amount(figure, rise)} above the first"
        return unknown(name, f"{noun} {growth} {over}, {late}; {more}", **evidence, late_rise=rise)
    return passed(name, f"{noun} {growth} {over}", **evidence)


def zombie_check(samples: Sequence[Sample]) -> Check:
    """Is a dead child still waiting to be reaped in the last sample?"""
    if not samples:
        return unknown("zombies", "there are no samples")
    last = samples[-1]
    count = _number(last, "zombies")
    if count is None:
        return skipped("zombies", f"zombies: {_reason(samples, 'zombies') or 'the last sample does not count them'}")
    if count > 0:
        names = last.get("zombie_names", [])
        who = f": {', '.join(map(str, names))}" if names else ""
        return failed("zombies", f"{_plural(count, 'dead child', 'dead children')} not reaped at the end{who}")
    return passed("zombies", "no dead child is left unreaped at the end")


def level_check(
    figure: str, first: float | None, last: float | None, tolerance: float, reason: str = "", when: str = "at the end"
) -> Check:
    """Is the figure back where it was? ``first`` is before the first server, ``last`` after the last; None is missing.

    Lower than before is fine. ``tolerance`` is in the figure's unit: a CUDA context, say, outlives every server.
    """
    if tolerance < 0:
        raise ValueError(f"the tolerance of {figure} must not be below 0, but is {tolerance}")
    name, noun = f"level of {figure}", _noun(figure)
    if first is None or last is None:
        when_missing = "before the first server" if first is None else when
        return skipped(name, f"{noun}: {reason or f'not known {when_missing}'}")
    evidence = {"figure": figure, "first": first, "last": last, "tolerance": tolerance}
    if not (math.isfinite(first) and math.isfinite(last)):
        return unknown(name, f"{noun}: from {first} to {last} is no level", **evidence)
    rise = last - first
    allowed = f"(from {amount(figure, first)} to {amount(figure, last)}, tolerance {amount(figure, tolerance)})"
    if rise > tolerance:
        return failed(name, f"{noun} is {amount(figure, rise)} above its first level {when} {allowed}", **evidence)
    return passed(name, f"{noun} is back at its first level {when} {allowed}", **evidence)


# The samples


def quiescent(samples: Sequence[Sample], figure: str) -> tuple[list[float], list[float]]:
    """What is judged: cycles and the figure there, of the samples that have both, in the order of the cycles."""
    series = _series(samples, figure)
    return series.x, series.y


def _cycles(sample: Sample) -> float | None:
    return next((number for key in _CYCLES if (number := _number(sample, key)) is not None), None)


def _number(sample: Sample, key: str) -> float | None:
    value = sample.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def _series(samples: Sequence[Sample], figure: str) -> _Series:
    asked = [(at, _number(sample, figure)) for sample in samples if (at := _cycles(sample)) is not None]
    found = sorted(((at, value) for at, value in asked if value is not None), key=lambda point: point[0])
    return _Series([at for at, _ in found], [value for _, value in found], len(asked), _reason(samples, figure))


def _reason(samples: Sequence[Sample], figure: str) -> str:
    for sample in reversed(samples):
        if figure in (missing := sample.get("missing") or {}):
            return str(missing[figure])
    return ""


# The judgement


def _split(values: Sequence[float], parts: int) -> list[Sequence[float]]:
    ends = [round(len(values) * part / parts) for part in range(parts + 1)]
    return [values[begin:end] for begin, end in pairwise(ends)]


def _keeps_rising(series: _Series, low_points: Sequence[float], budget: float) -> bool:
    """Whether each third's low point lies above the one before by at least half of what the budget allows."""
    middles = [sum(third) / len(third) for third in _split(series.x, 3)]
    rises = [after - before for before, after in pairwise(low_points)]
    spans = [after - before for before, after in pairwise(middles)]
    return all(rise > budget * span / 2 for rise, span in zip(rises, spans, strict=True))


def _late_rise(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """How far the median of the last fifth lies above that of the first, and how many cycles lie between them."""
    import numpy as np  # noqa: PLC0415

    size = max(1, len(y) // 5)
    rise = np.median(y[-size:]) - np.median(y[:size])
    return float(rise), float(np.median(x[-size:]) - np.median(x[:size]))


def _more(slope: Slope, budget: float, samples: int, span: float, cycle: str) -> str:
    """How many more samples would bring the bounds off the budget: they shrink as samples to the power of 1.5."""
    bound = slope.high if slope.slope < budget else slope.low
    distance, width = abs(budget - slope.slope), abs(bound - slope.slope)
    if distance <= 0 or (times := (width / distance) ** (2 / 3)) > 20:
        return "it grows by about the budget: far more samples are needed, or another budget"
    more = max(1, math.ceil(samples * (times - 1)))
    cycles = math.ceil(more * span / (samples - 1))
    return f"about {_plural(more, 'more sample')} ({_plural(cycles, cycle)}) would help"


def _plain(number: float) -> float | None:
    """The number, if JSON has it."""
    return number if math.isfinite(number) else None


# The words


def _noun(figure: str) -> str:
    return _NOUNS.get(figure, figure)


def _growth(figure: str, slope: Slope, budget: float, cycle: str, confidence: float) -> str:
    verb = "grows" if slope.slope >= 0 else "falls"
    low, high = _range(figure, slope.low, slope.high)
    bounds = f"{100 * confidence:g} % bounds {low} to {high}, budget {amount(figure, budget)}"
    return f"{verb} by {amount(figure, abs(slope.slope))} a {cycle} ({bounds})"


def _plural(count: float, one: str, many: str = "") -> str:
    return f"{_digits(count)} {one if count == 1 else many or one + 's'}"


def _after(cut: int) -> str:
    return f" (after {_plural(cut, 'sample')} of warm-up)" if cut else ""


def amount(figure: str, value: float) -> str:
    """A figure's value for people: ``1.02 MiB``, ``14``."""
    if not _in_bytes(figure):
        return _digits(value)
    unit, factor = _unit(value)
    return f"{_digits(value / factor)} {unit}"


def unit(figure: str, value: float) -> tuple[str, int]:
    """The unit in which ``amount`` writes such a value, and how much one of it is; nothing and 1 for counts."""
    return _unit(value) if _in_bytes(figure) else ("", 1)


def _range(figure: str, low: float, high: float) -> tuple[str, str]:
    """Both ends of a range; bytes in one unit, which stands after the second."""
    if not _in_bytes(figure):
        return _digits(low), _digits(high)
    unit, factor = _unit(max(abs(low), abs(high)))
    return _digits(low / factor), f"{_digits(high / factor)} {unit}"


def _in_bytes(figure: str) -> bool:
    return figure in _BYTES or "bytes" in figure


def _unit(value: float) -> tuple[str, int]:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(value) >= 0.9995 * (1 << power):  # what would be written as 1024 of the smaller unit
            return unit, 1 << power
    return "B", 1


def _digits(value: float) -> str:
    """Three digits that count, without zeros at the end; whole numbers in full."""
    if not math.isfinite(value) or value == round(value):
        return f"{value:.0f}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    written = f"{value:.{places}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written
