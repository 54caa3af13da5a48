"""perf's measurement: one step on one side, with everything that is written down of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.load import SelfRunning, watch
from harness.processes import until
from tritoncapi import Histogram, Interval

from ._perf_plan import Step
from ._perf_usage import Usage
from ._perf_windows import SLICES, Meter, Slice, Window

PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99.9": 99.9, "p99.99": 99.99}
_LAG = 2.0  # seconds that Triton's statistics may lag behind the answers
_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class ModelTotals:
    """One model's part: measured requests that ended, that failed, that Triton took, and latencies in ns."""

    model: str
    completed: int
    errors: int
    submitted: int
    latency: Histogram


@dataclass(frozen=True)
class Totals:
    """What came of a load. ``elapsed`` is seconds from the first measured request's start to the last one's end."""

    ending: str
    elapsed: float
    completed: int
    codes: Mapping[str, int]
    messages: Mapping[str, str]
    latency: Histogram
    naive: Histogram | None
    intervals: Sequence[Interval]
    models: Sequence[ModelTotals]
    validated: int = 0
    wrong: int = 0
    wrong_texts: Sequence[str] = ()
    skipped: int = 0
    refused: int = 0
    cancels: int = 0
    sequences: int = 0
    unsent: int = 0
    lost: int = 0


class Note(Protocol):
    """Writes down an event: ``Journal.write``."""

    def __call__(self, event: str, **fields: Any) -> None:
        """Writes it."""


class RunningLoad(SelfRunning, Protocol):
    """A load on a server, with its figures."""

    def take(self) -> Iterable[Slice]:
        """The slices that were completed since the last call."""

    def codes(self) -> tuple[int, Mapping[str, int]]:
        """Measured requests that ended so far, and errors by code."""

    def totals(self) -> Totals:
        """Everything, when it is over."""

    def close(self) -> None:
        """Frees what it holds."""


@dataclass(frozen=True)
class Extent:
    """How long a load runs: a number of requests, seconds, or until it is stopped."""

    requests: int | None = None
    seconds: float | None = None
    check: bool = False


class Bench(Protocol):
    """A server that can be loaded."""

    def models(self, side: str) -> Sequence[str]:
        """The names of the models that a side's requests go to."""

    def load(self, step: Step, extent: Extent) -> RunningLoad:
        """A load that has not begun."""

    def statistics(self, model: str) -> Mapping[str, Any]:
        """Triton's statistics of a model, all versions added: part -> {count, ns}."""

    def processes(self) -> tuple[Sequence[int], Sequence[int]]:
        """The serving processes and the clients'; without clients of their own the first ones send too."""


def tolerated(options: Mapping[str, Any]) -> set[str]:
    """Codes of errors that were asked for, and so are no failures."""
    found = set()
    if options["cancel_rate"]:
        found.add("CANCELLED")
    if options["request_timeout"]:
        found |= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "HTTP 503", "HTTP 504"}
    return found


def measure(bench: Bench, step: Step, options: Mapping[str, Any], note: Note) -> dict[str, Any]:
    """Warms up, measures, and says everything of it as plain data; ``note`` gets each window as it ends."""
    models = bench.models(step.side)
    before = {name: bench.statistics(name) for name in models}  # an earlier step waited for its own
    if options["warmup"]:
        warm = _run_out(bench.load(step, Extent(seconds=options["warmup"])))
        before = {name: _caught_up(bench, name, before[name], warm) for name in models}
    until_stable = not options["requests"] and not options["duration"]
    harmless = tolerated(options)
    load = bench.load(step, Extent(options["requests"], options["duration"], check=True))
    try:

        def bad() -> tuple[int, int]:
            completed, codes = load.codes()
            return completed, sum(count for code, count in codes.items() if code not in harmless)

        window = options["window"]
        allowed = options["max_error_rate"]

        def tell(found: Window) -> None:
            note("window", number=step.number, key=step.point.key, side=step.side, **found.row())

        meter = Meter(window, options["windows"], options["stability"], until_stable, allowed, load.take, bad, tell)
        usage = Usage(*bench.processes())
        watch(load, window / SLICES, meter.look)
        used = usage.stop()
        totals = load.totals()
    finally:
        load.close()
    after = {name: _caught_up(bench, name, before[name], totals) for name in models}
    return {
        "side": step.side,
        "round": step.round,
        "model": "+".join(models),
        "protocol": options["protocol"],
        "concurrency": step.point.concurrency,
        "rate": step.point.rate,
        **_describe(totals, options),
        **meter.result(),
        "ended": meter.ended or totals.ending,
        "server": server_times(before, after),
        "statistics": {name: _difference(before[name], after[name]) for name in models},
        **used,
    }


def _run_out(load: RunningLoad) -> Totals:
    try:
        load.start()
        load.wait()
        return load.totals()
    finally:
        load.close()


def _describe(totals: Totals, options: Mapping[str, Any]) -> dict[str, Any]:
    errors = sum(totals.codes.values())
    return {
        "throughput": totals.completed / totals.elapsed if totals.elapsed else 0.0,
        "goodput": (totals.completed - errors) / totals.elapsed if totals.elapsed else 0.0,
        "batch": options["batch"],
        "elapsed": totals.elapsed,
        "requests": totals.completed,
        "percentiles_us": percentiles(totals.latency),
        "mean_us": totals.latency.mean / 1000,
        "naive_us": percentiles(totals.naive) if totals.naive is not None else None,
        "histogram_ns": [[value, count] for value, count in totals.latency.buckets()],
        "series": [
            [round(part.start_s, 3), part.completed, part.errors, round(part.mean_ns), part.largest_ns]
            for part in totals.intervals
        ],
        "errors": dict(totals.codes),
        "messages": dict(totals.messages),
        "validated": totals.validated,
        "wrong": totals.wrong,
        "wrong_texts": list(totals.wrong_texts),
        "skipped": totals.skipped,
        "refused": totals.refused,
        "cancels": totals.cancels,
        "sequences": totals.sequences,
        "unsent": totals.unsent,
        "lost": totals.lost,
        "models": [
            {
                "model": part.model,
                "requests": part.completed,
                "errors": part.errors,
                "submitted": part.submitted,
                "percentiles_us": percentiles(part.latency),
            }
            for part in totals.models
        ],
    }


def percentiles(histogram: Histogram) -> dict[str, float]:
    """p50 to p99.99 and the largest, in us."""
    found = {name: histogram.percentile(share) / 1000 for name, share in PERCENTILES.items()}
    return {**found, "max": histogram.largest / 1000}


# Triton's statistics


def add_up(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics of a model's versions as one: part -> {count, ns}, and its inferences and executions."""
    found: dict[str, Any] = {"inferences": 0, "executions": 0}
    for row in rows:
        found["inferences"] += row["inference_count"]
        found["executions"] += row["execution_count"]
        for part, numbers in row["inference_stats"].items():
            into = found.setdefault(part, {"count": 0, "ns": 0})
            for key in into:
                into[key] += int(numbers.get(key, 0))
    return found


def _caught_up(bench: Bench, model: str, before: Mapping[str, Any], totals: Totals) -> Mapping[str, Any]:
    """The statistics, once they count all that was answered; they lag behind the answers a little."""
    due = next(part.submitted for part in totals.models if part.model == model)
    found: list[Mapping[str, Any]] = []

    def caught_up() -> bool:
        found[:] = [bench.statistics(model)]
        return _handled(found[0]) - _handled(before) >= due

    until(caught_up, _LAG)
    return found[0]


def _handled(statistics: Mapping[str, Any]) -> int:
    return int(statistics["success"]["count"] + statistics["fail"]["count"])


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, int]:
    return {
        "success": after["success"]["count"] - before["success"]["count"],
        "fail": after["fail"]["count"] - before["fail"]["count"],
        "inferences": after["inferences"] - before["inferences"],
        "executions": after["executions"] - before["executions"],
    }


def server_times(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float | None]:
    """Mean times of a successful request in us, over all models: queue, computing, and the whole of it in Triton."""

    def mean(part: str) -> float | None:
        pairs = [(before[name].get(part, {}), numbers.get(part, {})) for name, numbers in after.items()]
        count = sum(new.get("count", 0) - old.get("count", 0) for old, new in pairs)
        total = sum(new.get("ns", 0) - old.get("ns", 0) for old, new in pairs)
        return total / count / 1000 if count > 0 else None

    return {**{f"{part}_us": mean(part) for part in _PARTS}, "success_us": mean("success")}
