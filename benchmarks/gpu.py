"""On a GPU: requests whose inputs and outputs stay there, against the loop in C; and large tensors against copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tritoncapi import (
    PINNED,
    Buffer,
    DataType,
    Place,
    ResponseAllocator,
    Server,
    Target,
    TensorView,
    Traffic,
    cuda,
    gpu,
)

from .reference import CLoop
from .serving import running
from .speed import NATIVE, ROUNDS, ROWS, SECONDS, Subject, heading, table

DEVICE = 0
LARGE = 4 << 20  # elements: 16 MiB of INT32
COPIES = 32


def main() -> None:
    """Prints both tables, or that there is no GPU."""
    if not cuda.device_count():
        print("\ngpu: skipped, this machine has no CUDA device")
        return
    place = gpu(DEVICE)
    with running({NATIVE: 4}, gpu=DEVICE) as (server, folder), resident(place, 16) as subject:
        show(server, subject, place)
        heading(f"add/sub of 16 INT32 on GPU {DEVICE}, inputs and outputs resident there")
        with CLoop(folder, server.library.triton, NATIVE, gpu=DEVICE) as reference:
            table(reference, server, subject, ROWS)
    with running({NATIVE: 2}, gpu=DEVICE, elements=LARGE) as (server, _), resident(place, LARGE) as subject:
        show(server, subject, place)
        large(server, subject, place)


@contextmanager
def resident(place: Place, elements: int) -> Iterator[Subject]:
    """Two inputs of ones on ``place``, and an allocator that keeps its buffers there."""
    ones = np.ones((1, elements), np.int32)
    with (
        Buffer.from_bytes(ones, place) as left,
        Buffer.from_bytes(ones, place) as right,
        ResponseAllocator(place, reuse=True, keep_records=False) as allocator,
    ):
        views = [TensorView(buffer, DataType.INT32, ones.shape) for buffer in (left, right)]
        yield Subject(NATIVE, dict(zip(("INPUT0", "INPUT1"), views, strict=True)), allocator, look=False)


def show(server: Server, subject: Subject, place: Place) -> None:
    """Prints where one request's tensors were, and raises AssertionError if one left the GPU."""
    with ResponseAllocator(place) as allocator:
        with server.infer(subject.model, subject.inputs, allocator=allocator) as response:
            computed = response.parameters["computed_on"]
            assert response["OUTPUT0"].numpy()[0, 0] == 2
            assert response["OUTPUT1"].numpy()[0, -1] == 0
        actual = {record.tensor: record.actual for record in allocator.records}
    assert computed == str(place)
    assert set(actual.values()) == {place}
    outputs = ", ".join(f"{tensor} {where}" for tensor, where in sorted(actual.items()))
    print(f"\ninputs on {place}, computed on {computed}, {outputs}")


def large(server: Server, subject: Subject, place: Place) -> None:
    """Bytes read and written by the model a second, beside copies of as many bytes."""
    nbytes = 4 * LARGE
    print(
        f"GB/s read and written on GPU {DEVICE}, tensors of {nbytes >> 20} MiB (two in, two out); medians of {ROUNDS}"
    )
    with Buffer.empty(nbytes, place) as one, Buffer.empty(nbytes, place) as two, Buffer.empty(nbytes, PINNED) as host:
        rows: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            rows.setdefault("copy on the GPU (the ceiling)", []).append(2 * nbytes * copies(one, two) / 1e9)
            rows.setdefault("copy from pinned memory", []).append(nbytes * copies(one, host) / 1e9)
            for concurrency in (1, 2, 4):
                target = Target(subject.model, subject.inputs, allocator=subject.allocator)
                report = Traffic(server, target, concurrency=concurrency, duration=SECONDS).run()
                assert not report.counts.errors
                name = f"requests, {concurrency} in flight"
                rows.setdefault(name, []).append(4 * nbytes * report.throughput / 1e9)
    ceiling = statistics.median(rows["copy on the GPU (the ceiling)"])
    for name, figures in rows.items():
        middle = statistics.median(figures)
        print(f"  {name:<30} {middle:>8,.0f} {min(figures):>8,.0f} {max(figures):>8,.0f} {middle / ceiling:>6.2f}")


def copies(to: Buffer, source: Buffer) -> float:
    """Copies a second, of whole buffers, one after the other."""
    driver = cuda.driver()
    copy = driver.cuMemcpyDtoDAsync if source.place == to.place else driver.cuMemcpyHtoDAsync
    with cuda.current(DEVICE):
        driver.cuCtxSynchronize()
        began = time.perf_counter()
        for _ in range(COPIES):
            copy(to.address, source.address, to.nbytes, 0)
        driver.cuCtxSynchronize()
        return COPIES / (time.perf_counter() - began)
