"""Loads: when operations start, and on which threads."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .scenario import Context, Invoke, Operation
from .workers import together


@dataclass(frozen=True)
class InTurn:
    """``operations`` of one worker, one after the other on the caller's thread."""

    operations: int

    def __call__(self, _context: Context, invoke: Invoke, _settled: Callable[[], None]) -> None:
        """Runs them."""
        for number in range(self.operations):
            invoke(Operation(0, number))


@dataclass(frozen=True)
class Barrier:
    """``workers`` threads leave a barrier together and do ``loops`` operations each, one after the other.

    The loops are spread over ``rounds``: between two, all threads have ended and what is left can be measured. With
    ``stagger`` worker n begins each round n * stagger seconds after the barrier.
    """

    workers: int
    loops: int
    rounds: int = 1
    stagger: float = 0.0

    def __call__(self, _context: Context, invoke: Invoke, settled: Callable[[], None]) -> None:
        """Runs the rounds."""
        settled()
        rounds = max(1, min(self.rounds, self.loops))
        bounds = [self.loops * n // rounds for n in range(rounds + 1)]
        for first, end in itertools.pairwise(bounds):

            def work(worker: int, first: int = first, end: int = end) -> None:
                self._wait(worker)
                for number in range(first, end):
                    invoke(Operation(worker, number))

            together(self.workers, work)
            settled()

    def _wait(self, worker: int) -> None:
        if self.stagger:
            threading.Event().wait(self.stagger * worker)


@dataclass(frozen=True)
class Lasting:
    """The same for ``seconds``: rounds of ``loops`` operations a thread until the time is over.

    With ``churn`` each worker pauses between operations for a random time up to that many seconds, and may sit a round
    out; the seed decides.
    """

    workers: int
    seconds: float
    loops: int = 4
    stagger: float = 0.0
    churn: float = 0.0
    seed: int = 0

    def __call__(self, _context: Context, invoke: Invoke, settled: Callable[[], None]) -> None:
        """Runs rounds until the time is over."""
        deadline = time.monotonic() + self.seconds
        chance = [random.Random(self.seed * 1_000_003 + worker) for worker in range(self.workers)]
        done = [0] * self.workers
        settled()
        while time.monotonic() < deadline:
            # Somebody has to come: a round in which all sit out would measure nothing.
            here = [not self.churn or worker == 0 or chance[worker].random() < 0.75 for worker in range(self.workers)]

            def work(worker: int, here: list[bool] = here) -> None:
                if self.stagger:
                    threading.Event().wait(self.stagger * worker)
                for _ in range(self.loops if here[worker] else 0):
                    if self.churn:
                        threading.Event().wait(chance[worker].uniform(0, self.churn))
                    if time.monotonic() >= deadline:
                        return
                    invoke(Operation(worker, done[worker]))
                    done[worker] += 1

            together(self.workers, work)
            settled()


class SelfRunning(Protocol):
    """A load that runs itself, on threads or in processes of its own."""

    def start(self) -> None:
        """Begins."""

    def wait(self, timeout: float | None = None) -> bool:
        """Waits that many seconds at most; True when it is over."""

    def stop(self) -> None:
        """Begins nothing more; what is under way comes back."""


def watch(load: SelfRunning, every: float, look: Callable[[], bool]) -> None:
    """Starts a load that runs itself and calls ``look`` every so many seconds, and once more when it is over.

    A ``look`` that returns False stops the load. The times do not drift: a late look does not put off the next one.
    """
    load.start()
    began = time.monotonic()
    number, stopped = 0, False
    while True:
        number = max(number + 1, int((time.monotonic() - began) / every))
        over = load.wait(max(0.0, began + number * every - time.monotonic()))
        if not look() and not stopped:
            load.stop()
            stopped = True
        if over:
            return
