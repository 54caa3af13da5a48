"""Figures of a run: one flat table of numbers, for the page, for JSON, and to be compared with another run's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runner import Result
from .cells import cells_in
from .plain import mapping, number
from .steps import steps_of

_NO_FIGURES = ("time_ns", "cost_ns", "cycles", "operations")
POINTS = (50.0, 90.0, 99.0)


@dataclass(frozen=True)
class Span:
    """An operation's time, in ns of CLOCK_MONOTONIC; ``end`` is None while it was under way at the end of the run."""

    worker: str
    name: str
    begin: int
    end: int | None
    kind: str
    text: str


def spans_of(events: Sequence[Mapping[str, Any]]) -> list[Span]:
    """The operations of a journal that have a time, those that never ended among them, in the order of their begins."""
    spans, under_way = [], {}
    for event in events:
        key = (str(event.get("worker")), str(event.get("number")))
        if event.get("event") == "invoke" and (begin := number(event.get("time_ns"))) is not None:
            under_way[key] = int(begin)
        elif event.get("event") == "op":
            under_way.pop(key, None)
            begin, end = number(event.get("start_ns")), number(event.get("time_ns"))
            if begin is not None and end is not None and end >= begin:
                spans.append(Span(*key, int(begin), int(end), str(event.get("kind")), str(event.get("text") or "")))
    spans += [Span(*key, begin, None, "unfinished", "") for key, begin in under_way.items()]
    return sorted(spans, key=lambda span: span.begin)


def series_of(samples: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Each sampled figure with its times (ns of CLOCK_MONOTONIC) and values."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for sample in samples:
        at = number(sample.get("time_ns"))
        if at is None:
            continue
        for name, value in sample.items():
            if name not in _NO_FIGURES and (y := number(value)) is not None:
                times, values = found.setdefault(name, ([], []))
                times.append(at)
                values.append(y)
    return found


def missing_of(samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Why figures are missing: the last reason of each that no sample has."""
    present = series_of(samples)
    reasons: dict[str, str] = {}
    for sample in samples:
        reasons |= {str(name): str(why) for name, why in mapping(sample.get("missing")).items() if name not in present}
        if "probe_error" in sample:
            reasons[f"probe {sample.get('probe')}"] = str(sample["probe_error"])
    return reasons


def figures(result: Result) -> dict[str, float]:
    """Every figure by its name: ``operations``, ``operation ms p99``, ``rss last``, ``rss slope``, ``step ... p99``."""
    found: dict[str, float] = {"seconds": result.run.ended.seconds} if result.run.ended.seconds else {}
    for part in (_operations(result), _samples(result), _slopes(result), _steps(result), _cells(result)):
        found |= dict(part)
    return found


def _operations(result: Result) -> Iterator[tuple[str, float]]:
    from ..stats import percentiles  # noqa: PLC0415

    spans = spans_of(result.run.ended.events)
    done = [(span, span.end) for span in spans if span.end is not None]
    if not spans:
        return
    yield "operations", len(done)
    for kind, count in sorted(Counter(span.kind for span in spans).items()):
        yield f"operations {kind}", count
    if not done:
        return
    seconds = (max(end for _, end in done) - done[0][0].begin) / 1e9
    if seconds > 0:
        yield "operations a second", len(done) / seconds
    times = [(end - span.begin) / 1e6 for span, end in done]
    for point, value in percentiles(times, POINTS).items():
        yield f"operation ms p{point:g}", value
    yield "operation ms max", max(times)


def _samples(result: Result) -> Iterator[tuple[str, float]]:
    for name, (_, values) in series_of(result.run.samples).items():
        yield f"{name} first", values[0]
        yield f"{name} last", values[-1]
        yield f"{name} max", max(values)


def _slopes(result: Result) -> Iterator[tuple[str, float]]:
    for check in result.checks:
        slope = number(check.evidence.get("slope"))
        if slope is not None and isinstance(check.evidence.get("figure"), str):
            yield f"{check.evidence['figure']} slope", slope


def _steps(result: Result) -> Iterator[tuple[str, float]]:
    for step in steps_of(result.run.ended.events):
        if step.throughput is not None:
            yield f"{step.name} throughput", step.throughput
        for point, value in step.percentiles_us.items():
            yield f"{step.name} us {point}", value


def _cells(result: Result) -> Iterator[tuple[str, float]]:
    for outcome, count in sorted(Counter(cell.outcome for cell in cells_in(result)).items()):
        yield f"cells {outcome}", count
