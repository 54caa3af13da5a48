"""perf's figures for people, and as CSV in perf_analyzer's columns."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import LacksError
from harness.journal import all_of, last
from harness.scenario import Line, Run

SHARES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
Step = Mapping[str, Any]


def points(run: Run) -> list[dict[str, Any]]:
    """A row for each point and side, in order; the rounds of an A/B comparison are added up."""
    groups: dict[tuple[str, str], list[Step]] = {}
    for step in all_of(run.ended.events, "step"):
        groups.setdefault((step["key"], step["side"]), []).append(step)
    return [added(steps) for steps in groups.values()]


def added(steps: Sequence[Step]) -> dict[str, Any]:
    """Several steps of one point as one."""
    if len(steps) == 1:
        return dict(steps[0])
    requests, elapsed = (sum(step[key] for step in steps) for key in ("requests", "elapsed"))
    buckets: dict[int, int] = {}
    for step in steps:
        for value, count in step["histogram_ns"]:
            buckets[value] = buckets.get(value, 0) + count
    largest = max(step["percentiles_us"]["max"] for step in steps)
    found = {name: min(largest, _percentile(buckets, share)) for name, share in SHARES.items()}
    return {
        **steps[0],
        "requests": requests,
        "elapsed": elapsed,
        "throughput": requests / elapsed if elapsed else 0.0,
        "percentiles_us": {**found, "max": largest},
        "server": {key: _mean([step["server"][key] for step in steps]) for key in steps[0]["server"]},
        "cpu": _mean([step["cpu"] for step in steps]),
        "client_cpu": _mean([step["client_cpu"] for step in steps]),
        "client_bound": any(step["client_bound"] for step in steps),
        "peak_rss": max(step["peak_rss"] for step in steps),
        "unsent": sum(step["unsent"] for step in steps),
        "histogram_ns": sorted(buckets.items()),
        "stable": None,
    }


def _percentile(buckets: Mapping[int, int], share: float) -> float:
    left = math.ceil(sum(buckets.values()) * share / 100)
    for value in sorted(buckets):
        left -= buckets[value]
        if left <= 0:
            return value / 1000
    return 0.0


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summary(run: Run) -> Iterator[Line]:
    """Which Triton, how it was driven, and the table. Times are us."""
    from rich.text import Text  # noqa: PLC0415 - rich takes its time

    from harness.report import table  # noqa: PLC0415

    for library in all_of(run.ended.events, "library"):
        side = f"side {library['side']}: " if library.get("side") else ""
        yield Text(f"Triton: {side}{library['why']}", style="dim")
    rows = points(run)
    if not rows:
        return
    options = run.options
    noun = "native thread" if options["protocol"] == "c-api" else "client process"
    more = "" if options["threads"] == 1 else "s" if noun.endswith("d") else "es"
    clients = f"{options['threads']} {noun}{more}"
    yield Text(f"{rows[0]['model']} over {options['protocol']}, {clients}; latencies in us", style="dim")
    remote = any(row["client_cpu"] is not None for row in rows)
    sided = options["two_sides"]
    head = ["load", *(["side"] if sided else []), "req/s", *SHARES, "max", "queue", "compute", "CPUs"]
    head += [*(["client"] if remote else []), "peak MiB", ""]
    yield from table(head, [_cells(row, sided, remote) for row in rows])
    for row in rows:
        if row["naive_us"] is not None and not sided:
            naive = row["naive_us"]
            figures = f"p50 {naive['p50']:.1f}, p99 {naive['p99']:.1f}"
            yield Text(f"{row['key']}: from sending, not from when requests were due: {figures}", style="dim")
    yield from _peer(run)
    yield ""


def _cells(row: Step, sided: bool, remote: bool) -> list[str]:
    server = row["server"]
    compute = [server[f"compute_{part}_us"] for part in ("input", "infer", "output")]
    notes = [
        *(["unstable"] if row["stable"] is False else []),
        *(["client-bound"] if row["client_bound"] else []),
        *([f"{row['unsent']} never sent"] if row["unsent"] else []),
    ]
    return [
        row["key"],
        *([row["side"]] if sided else []),
        f"{row['throughput']:.1f}",
        *(_number(row["percentiles_us"][name] if row["histogram_ns"] else None) for name in (*SHARES, "max")),
        _number(server["queue_us"]),
        _number(None if None in compute else sum(compute)),
        f"{row['cpu']:.2f}",
        *([_number(row["client_cpu"], 2)] if remote else []),
        f"{row['peak_rss'] / 2**20:.0f}",
        ", ".join(notes),
    ]


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _peer(run: Run) -> Iterator[Line]:
    """perf_analyzer's figures beside ours."""
    from harness.report import table  # noqa: PLC0415

    peer = last(run.ended.events, "peer")
    if peer is None:
        return
    ours = {row["concurrency"]: row for row in points(run)}
    rows = []
    for their in peer["rows"]:
        mine = ours.get(int(float(their["Concurrency"])))
        if mine is None:
            continue
        throughput = float(their["Inferences/Second"])
        our = mine["throughput"] * mine["batch"]
        rows.append(
            [
                mine["key"],
                f"{our:.1f}",
                f"{throughput:.1f}",
                f"{our / throughput:.2f}" if throughput else "-",
                *(cell for name in ("p50", "p95", "p99") for cell in _beside(mine, their, name)),
            ]
        )
    yield ""
    if rows:
        head = ["load", "inf/s", "perf_analyzer", "ratio"]
        yield from table([*head, *(f"{name}{who}" for name in ("p50", "p95", "p99") for who in ("", " theirs"))], rows)
    if peer["text"] or not rows:
        yield f"perf_analyzer: {peer['text'] or 'no figures'}"


def _beside(mine: Step, their: Mapping[str, str], name: str) -> list[str]:
    return [f"{mine['percentiles_us'][name]:.1f}", their.get(f"{name} latency", "-")]


COLUMNS = (
    "Inferences/Second",
    "Client Send",
    "Network+Server Send/Recv",
    "Server Queue",
    "Server Compute Input",
    "Server Compute Infer",
    "Server Compute Output",
    "Client Recv",
    "p50 latency",
    "p90 latency",
    "p95 latency",
    "p99 latency",
)


def csv_rows(run: Run) -> list[list[Any]]:
    """perf_analyzer's columns, the head first; times are whole us.

    What is neither queue nor computing is all in ``Network+Server Send/Recv``: client and server are not told apart.
    """
    rated = run.options["rate"] is not None
    sided = ["Side"] if run.options["two_sides"] else []
    rows: list[list[Any]] = [[*sided, "Request Rate" if rated else "Concurrency", *COLUMNS]]
    for row in points(run):
        parts = [row["server"][f"{part}_us"] or 0.0 for part in _PARTS]
        rest = max(0.0, row["mean_us"] - sum(parts))
        times = [0, rest, *parts, 0, *(row["percentiles_us"][name] for name in ("p50", "p90", "p95", "p99"))]
        first = row["rate"] if rated else row["concurrency"]
        side = [row["side"]] if sided else []
        rows.append([*side, first, round(row["throughput"] * row["batch"], 3), *(round(time) for time in times)])
    return rows


_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


def write_csv(path: Path, run: Run) -> None:
    """Writes the file. Raises LacksError."""
    try:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(csv_rows(run))
    except OSError as error:
        raise LacksError(f"--csv {path}: {error.strerror}; the table is lost there") from error
