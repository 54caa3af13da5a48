"""Speed: every way to send requests against a bare loop in C, in turn, in one run."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritoncapi import InferenceRequest, Server, Target, Traffic
from tritoncapi.allocator_base import Allocator

from .reference import CLoop, Run
from .serving import running

ROUNDS = 21
SECONDS = 0.15
MANY = 64
NATIVE, PYTHON = "add_sub_int32_native", "add_sub_int32_python"


@dataclass(frozen=True)
class Subject:
    """What is asked of Triton, and where its outputs go. With ``look`` ``infer()`` has an array of each answer."""

    model: str
    inputs: Mapping[str, Any]
    allocator: Allocator | None = None
    look: bool = True

    def check(self, values: Any) -> None:
        """``values``: the array of the last answer, where answers are looked at."""
        assert not self.look or (values is not None and values[0, 0] == 2)


Ours = Callable[[Server, Subject, float], Run]


@dataclass(frozen=True)
class Row:
    """One way, what of the reference it is held against, and the ratio of throughputs that is aimed at.

    ``ours`` is None for the reference itself where it sends all together and waits for all, as ``infer_many()`` must:
    what that costs whoever does it.
    """

    name: str
    threads: int
    concurrency: int
    ours: Ours | None
    aim: float | None


def traffic(concurrency: int, threads: int = 1) -> Ours:
    """The load loop."""

    def run(server: Server, subject: Subject, seconds: float) -> Run:
        target = Target(subject.model, subject.inputs, allocator=subject.allocator)
        report = Traffic(server, target, concurrency=concurrency, threads=threads, duration=seconds).run()
        assert not report.counts.errors
        return Run(report.throughput, report.latency.mean / 1000)

    return run


def _rate(count: int, began: float, in_flight: int) -> Run:
    took = time.perf_counter() - began
    return Run(count / took, in_flight * took / count * 1e6)


def prepared(threads: int) -> Ours:
    """``InferenceRequest.infer()``, a request for each thread, one output as an array."""

    def run(server: Server, subject: Subject, seconds: float) -> Run:
        counts = [0] * threads
        start = threading.Barrier(threads + 1)

        def work(index: int) -> None:
            with server.request(subject.model, subject.inputs) as request:
                start.wait()
                end = time.perf_counter() + seconds
                count = 0
                values = None
                while time.perf_counter() < end:
                    with request.infer(allocator=subject.allocator) as response:
                        if subject.look:
                            values = response["OUTPUT0"].numpy()
                    count += 1
                subject.check(values)
                del values
                counts[index] = count

        workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
        for worker in workers:
            worker.start()
        start.wait()
        began = time.perf_counter()
        for worker in workers:
            worker.join()
        return _rate(sum(counts), began, threads)

    return run


def anew(server: Server, subject: Subject, seconds: float) -> Run:
    """``Server.infer()``: request, inputs, response, one output as an array."""
    began = time.perf_counter()
    count, values = 0, None
    while time.perf_counter() < began + seconds:
        with server.infer(subject.model, subject.inputs, allocator=subject.allocator) as response:
            if subject.look:
                values = response["OUTPUT0"].numpy()
        count += 1
    subject.check(values)
    return _rate(count, began, 1)


def many(server: Server, subject: Subject, seconds: float) -> Run:
    """``infer_many()``: submitted and collected in one call."""
    requests = [server.request(subject.model, subject.inputs) for _ in range(MANY)]
    began = time.perf_counter()
    count = 0
    while time.perf_counter() < began + seconds:
        server.infer_many(requests, allocator=subject.allocator).close()
        count += MANY
    found = _rate(count, began, MANY)
    with server.infer_many(requests, allocator=subject.allocator) as responses:
        responses.raise_for_error()
        subject.check(responses[-1]["OUTPUT0"].numpy() if subject.look else None)
    for request in requests:
        request.close()
    return found


def in_asyncio(server: Server, subject: Subject, seconds: float) -> Run:
    """Coroutines, each with a prepared request."""

    async def client(request: InferenceRequest, end: float) -> int:
        count = 0
        while time.perf_counter() < end:
            (await request.infer_await(allocator=subject.allocator)).close()
            count += 1
        return count

    async def clients() -> Run:
        requests = [server.request(subject.model, subject.inputs) for _ in range(MANY)]
        began = time.perf_counter()
        counts = await asyncio.gather(*(client(request, began + seconds) for request in requests))
        found = _rate(sum(counts), began, MANY)
        for request in requests:
            request.close()
        return found

    return asyncio.run(clients())


ROWS = (
    *(Row(f"traffic, {n} in flight", 1, n, traffic(n), 0.97) for n in (1, 2, 4, 16, 64)),
    Row("traffic, 4 threads", 4, 1, traffic(4, 4), 0.97),
    Row("infer(), prepared request", 1, 1, prepared(1), 1 / 1.3),
    Row("infer(), all made anew", 1, 1, anew, 1 / 2.0),
    Row("infer(), 4 threads", 4, 1, prepared(4), 0.3),
    Row(f"infer_many(), {MANY} requests", 1, MANY, many, 0.9),
    Row(f"the same batches in C, {MANY}", 1, MANY, None, None),
    Row(f"asyncio, {MANY} in flight", 1, MANY, in_asyncio, 0.4),
)
OF_PYTHON = tuple(Row(f"Python backend, {n} in flight", 1, n, traffic(n), 0.98) for n in (1, 16))


def main() -> None:
    """Prints the table for models on the CPU."""
    inputs = {"INPUT0": np.ones((1, 16), np.int32), "INPUT1": np.ones((1, 16), np.int32)}
    with running({NATIVE: 4, PYTHON: 1}) as (server, folder):
        heading("add/sub of 16 INT32")
        for model, rows in ((NATIVE, ROWS), (PYTHON, OF_PYTHON)):
            with CLoop(folder, server.library.triton, model) as reference:
                table(reference, server, Subject(model, inputs), rows)


def heading(what: str) -> None:
    """The table's head."""
    print(f"\nthroughput against a loop in C, {what}; {ROUNDS} pairs of {SECONDS} s each")
    head = f"  {'':<28} {'C req/s':>10} {'ours':>10} {'C us':>7} {'ours':>7} {'ratio':>6}"
    print(f"{head} {'from':>6} {'to':>6} {'aim':>6}")


def _ours(row: Row, reference: CLoop, server: Server, subject: Subject) -> Run:
    if row.ours is None:
        return reference.run(row.threads, row.concurrency, SECONDS, together=True)
    return row.ours(server, subject, SECONDS)


def table(reference: CLoop, server: Server, subject: Subject, rows: Sequence[Row]) -> None:
    """Prints a line for each row: medians of both, and the median, lowest and highest ratio of throughputs.

    Each round has a pair of each row: a bad time of the machine's is one pair's of all rows, and not all of one row's.
    One begins with the reference, the next with ours: a machine that gets quicker favours neither.
    """
    found: list[list[tuple[Run, Run]]] = [[] for _ in rows]
    for number in range(ROUNDS + 1):
        for row, pairs in zip(rows, found, strict=True):
            ours = None if number % 2 else _ours(row, reference, server, subject)
            theirs = reference.run(row.threads, row.concurrency, SECONDS)
            if ours is None:
                ours = _ours(row, reference, server, subject)
            if number:  # the first warms up
                pairs.append((theirs, ours))
    for row, pairs in zip(rows, found, strict=True):
        ratios = sorted(ours.rate / theirs.rate for theirs, ours in pairs)
        rates = [statistics.median(run.rate for run in column) for column in zip(*pairs, strict=True)]
        times = [statistics.median(run.latency_us for run in column) for column in zip(*pairs, strict=True)]
        ratio = statistics.median(ratios)
        print(
            f"  {row.name:<28} {rates[0]:>10,.0f} {rates[1]:>10,.0f} {times[0]:>7.1f} {times[1]:>7.1f} {ratio:>6.2f}"
            f" {ratios[0]:>6.2f} {ratios[-1]:>6.2f} {'' if row.aim is None else f'{row.aim:.2f}':>6}",
            flush=True,
        )
