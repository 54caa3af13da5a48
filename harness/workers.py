"""Threads that leave a barrier together."""

from __future__ import annotations

import threading
from collections.abc import Callable

_MEET = 60.0  # seconds for all threads to come to the barrier


def together(count: int, work: Callable[[int], None]) -> None:
    """Runs ``work(0) ... work(count - 1)`` on threads that start at once; waits for all; raises the first failure."""
    barrier = threading.Barrier(count)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            barrier.wait(_MEET)
            work(number)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,), name=f"worker-{number}") for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), None)
    if first is not None or failures:
        raise first or failures[0]
