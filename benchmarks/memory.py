"""Memory: what a request in flight takes, without its tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import model_repos
from tritoncapi import Server, Target, Traffic
from tritoncapi.waiting import wait_for

from .serving import running

COUNT = 20_000
MODEL = "add_sub_int32_native"


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Prints bytes a request, of Triton and of us together: all have the same inputs, and outputs come later."""
    inputs = {"INPUT0": np.ones((1, 16), np.int32), "INPUT1": np.ones((1, 16), np.int32)}
    # The first is executed for so long that all others are sent; these are then executed as one batch.
    held = model_repos.parameter("execute_delay_ms", 1500) + "dynamic_batching { }\n"
    with running({MODEL: 1}, max_batch=2 * COUNT, extra=held) as (server, _):
        print(f"\nresident memory of {COUNT:,} requests in flight, without tensors (aim: at most 4,096 B each)")
        for name, measure in (("traffic", _traffic), ("InferenceRequest.start()", _started)):
            measure(server, inputs, 100)  # what is made once
            print(f"  {name:<28} {measure(server, inputs, COUNT) / COUNT:>8,.0f} B", flush=True)


def _traffic(server: Server, inputs: dict[str, np.ndarray], count: int) -> int:
    before = resident()
    traffic = Traffic(server, Target(MODEL, inputs), concurrency=count)
    with traffic:
        traffic.start()
        assert wait_for(lambda: traffic.report.counts.submitted >= count, 60)
        return resident() - before


def _started(server: Server, inputs: dict[str, np.ndarray], count: int) -> int:
    before = resident()
    requests = [server.request(MODEL, inputs) for _ in range(count)]
    executions = [request.start() for request in requests]
    assert not all(execution.done for execution in executions)
    taken = resident() - before
    for request in requests:
        request.cancel()
    for request in requests:
        request.close()
    return taken
