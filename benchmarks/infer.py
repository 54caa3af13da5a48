"""What one request costs: callbacks and allocator in native code, against an allocator that is a Python function."""

from __future__ import annotations

import threading
import time

import numpy as np

from tritoncapi import CPU, CallableAllocator, ResponseAllocator, Server
from tritoncapi.allocator_base import Allocator

from .pairs import Measure, compare
from .serving import running

REQUESTS = 2000
INPUTS = {"INPUT0": np.ones((1, 16), np.int32), "INPUT1": np.ones((1, 16), np.int32)}
MODEL = "add_sub_int32_native"


def rate(server: Server, allocator: Allocator, threads: int) -> Measure:
    """Microseconds a request over all threads, each with a prepared request of its own."""

    def work(start: threading.Barrier) -> None:
        with server.request(MODEL, INPUTS) as request:
            start.wait()
            for _ in range(REQUESTS // threads):
                request.infer(allocator=allocator).close()

    def measure() -> float:
        start = threading.Barrier(threads + 1)
        workers = [threading.Thread(target=work, args=(start,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        start.wait()
        began = time.perf_counter()
        for worker in workers:
            worker.join()
        return (time.perf_counter() - began) / REQUESTS * 1e6

    return measure


def main() -> None:
    """One thread and four."""
    with (
        running({MODEL: 4}) as (server, _),
        ResponseAllocator(CPU, keep_records=False) as native,
        CallableAllocator(lambda _tensor, _size, _preferred: CPU) as python,
    ):
        for threads in (1, 4):
            compare(
                f"infer, {threads} thread(s), add/sub of 16 INT32",
                "us/request",
                ("allocator and callbacks in native code", rate(server, native, threads)),
                ("allocator a Python function", rate(server, python, threads)),
            )
