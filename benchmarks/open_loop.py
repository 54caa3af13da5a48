"""Open loop: how late requests of a constant rate are sent, and what it costs to say latency from the due time."""

from __future__ import annotations

import statistics

import numpy as np

from tritoncapi import Target, Traffic

from .serving import running

RATE = 10_000.0
SECONDS = 2.0
ROUNDS = 5
LATE_NS = 1_000_000
MODEL = "add_sub_int32_native"


def main() -> None:
    """Prints a line for each round and the median share of requests that were sent more than 1 ms late."""
    inputs = {"INPUT0": np.ones((1, 16), np.int32), "INPUT1": np.ones((1, 16), np.int32)}
    shares = []
    with running({MODEL: 4}) as (server, _):
        print(f"\nopen loop, {RATE:,.0f} requests a second for {SECONDS:g} s; sent later than due, in us")
        print(f"  {'requests':>9} {'p50':>7} {'p99':>8} {'p99.9':>8} {'max':>8} {'> 1 ms':>9} {'p99 of latency':>15}")
        for _ in range(ROUNDS):
            report = Traffic(server, Target(MODEL, inputs), rate=RATE, duration=SECONDS, concurrency=256).run()
            late = report.total.late
            shares.append(late.share_above(LATE_NS))
            points = [late.percentile(percent) / 1000 for percent in (50, 99, 99.9, 100)]
            columns = " ".join(f"{point:>{width}.1f}" for point, width in zip(points, (7, 8, 8, 8), strict=True))
            latency = report.latency.percentile(99) / 1000
            print(f"  {late.count:>9,} {columns} {shares[-1]:>9.3%} {latency:>15.1f}", flush=True)
    print(f"  median share more than 1 ms late: {statistics.median(shares):.3%} (aim: below 0.1 %)")
