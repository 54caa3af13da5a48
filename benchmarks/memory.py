"""Memory: what a request in flight takes, without its tensors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import model_repos
from tritoncapi import DataType, MemoryType, Server, Target, Traffic
from tritoncapi.waiting import wait_for

from .serving import running

COUNT = 20_000
MODEL = "add_sub_int32_native"
Inputs = Mapping[str, npt.NDArray[Any]]


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Prints bytes a request. All have the same inputs, and there are no outputs yet."""
    print(f"\nresident memory of {COUNT:,} requests, without tensors (aim: at most 4,096 B each in flight)", flush=True)
    for name in WAYS:
        # Each in a process of its own, and a new one: what another one gave back, this one would take.
        subprocess.run([sys.executable, "-m", __spec__.name, name], check=True)


def one(name: str) -> None:
    """Prints one line."""
    inputs = {"INPUT0": np.ones((1, 16), np.int32), "INPUT1": np.ones((1, 16), np.int32)}
    # The first is executed for so long that all others are sent; these are then executed as one batch.
    held = model_repos.parameter("execute_delay_ms", 1500) + "dynamic_batching { }\n"
    with running({MODEL: 1}, max_batch=2 * COUNT, extra=held) as (server, _):
        WAYS[name](server, inputs, 100)  # what is made once
        print(f"  {name:<28} {WAYS[name](server, inputs, COUNT) / COUNT:>8,.0f} B", flush=True)


def _of_triton(server: Server, inputs: Inputs, count: int) -> int:
    """Triton's own part: requests made through the C functions, with their inputs, not sent."""
    api, shape = server.library.api, (ctypes.c_int64 * 2)(1, 16)
    before = resident()
    pointers = []
    for _ in range(count):
        pointer = api.InferenceRequestNew(server.pointer, MODEL.encode(), -1)
        for name, array in inputs.items():
            api.InferenceRequestAddInput(pointer, name.encode(), DataType.INT32, shape, 2)
            address = array.ctypes.data
            api.InferenceRequestAppendInputData(pointer, name.encode(), address, array.nbytes, MemoryType.CPU, 0)
        pointers.append(pointer)
    taken = resident() - before
    for pointer in pointers:
        api.InferenceRequestDelete(pointer)
    return taken


def _traffic(server: Server, inputs: Inputs, count: int) -> int:
    before = resident()
    traffic = Traffic(server, Target(MODEL, inputs), concurrency=count)
    with traffic:
        traffic.start()
        assert wait_for(lambda: traffic.report.counts.submitted >= count, 60)
        return resident() - before


def _prepared(server: Server, inputs: Inputs, count: int) -> int:
    before = resident()
    requests = [server.request(MODEL, inputs) for _ in range(count)]
    taken = resident() - before
    for request in requests:
        request.close()
    return taken


def _started(server: Server, inputs: Inputs, count: int) -> int:
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


WAYS: dict[str, Callable[[Server, Inputs, int], int]] = {
    "Triton's own, not sent": _of_triton,
    "Traffic": _traffic,
    "InferenceRequest, not sent": _prepared,
    "InferenceRequest.start()": _started,
}

if __name__ == "__main__":
    one(sys.argv[1])
