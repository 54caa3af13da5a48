"""perf's windows: slices of a running load, joined to windows until the last three agree, as perf_analyzer does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SLICES = 10  # of a window
ALIKE = 3  # windows that must agree
FEWEST = 50  # requests of a window, when measuring goes on until it is stable
MOST = 4000  # slices, and windows, that are kept of a step
LEAST_FOR_ERRORS = 100  # requests that must have ended before a share of errors ends a step


@dataclass(frozen=True)
class Slice:
    """What ended within a short time. Times are seconds since measuring began, latencies us of successful requests."""

    start_s: float
    seconds: float
    completed: int
    errors: int
    mean_us: float
    p50_us: float
    p95_us: float
    p99_us: float

    def row(self) -> list[float]:
        """The slice as the journal keeps it."""
        numbers = (self.start_s, self.seconds, self.mean_us, self.p50_us, self.p95_us, self.p99_us)
        start, seconds, *latencies = (round(number, 6) for number in numbers)
        return [start, seconds, self.completed, self.errors, *latencies]


@dataclass(frozen=True)
class Window:
    """Slices joined: requests a second, and their mean latency."""

    start_s: float
    seconds: float
    completed: int
    errors: int
    mean_us: float

    @property
    def throughput(self) -> float:
        """Requests a second."""
        return self.completed / self.seconds if self.seconds else 0.0

    def row(self) -> dict[str, float]:
        """The window as the journal keeps it."""
        return {
            "start_s": round(self.start_s, 6),
            "seconds": round(self.seconds, 6),
            "completed": self.completed,
            "errors": self.errors,
            "throughput": round(self.throughput, 3),
            "mean_us": round(self.mean_us, 3),
        }


def join(slices: Sequence[Slice]) -> Window:
    """One window of neighbouring slices."""
    completed, errors = sum(s.completed for s in slices), sum(s.errors for s in slices)
    good = completed - errors
    total = sum(s.mean_us * (s.completed - s.errors) for s in slices)
    seconds = sum(s.seconds for s in slices)
    return Window(slices[0].start_s, seconds, completed, errors, total / good if good else 0.0)


def thinned(slices: list[Slice]) -> list[Slice]:
    """The slices, or where they are too many, pairs of neighbours as one: a long run takes no more room."""
    if len(slices) < MOST:
        return slices
    return [_pair(*slices[at : at + 2]) if at + 1 < len(slices) else slices[at] for at in range(0, len(slices), 2)]


def _pair(first: Slice, second: Slice) -> Slice:
    """Two slices as one; its percentiles are those of the two, by the number of their requests."""
    weights = [piece.completed - piece.errors for piece in (first, second)]

    def mean(name: str) -> float:
        values = [getattr(first, name), getattr(second, name)]
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights) if any(weights) else 0.0

    return Slice(
        first.start_s,
        first.seconds + second.seconds,
        first.completed + second.completed,
        first.errors + second.errors,
        *(mean(name) for name in ("mean_us", "p50_us", "p95_us", "p99_us")),
    )


def stable(windows: Sequence[Window], within: float = 0.1) -> bool | None:
    """Whether throughput and mean latency of the last three windows lie within a share of their mean; None: too few."""
    if len(windows) < ALIKE:
        return None
    last = windows[-ALIKE:]
    for values in ([w.throughput for w in last], [w.mean_us for w in last]):
        mean = sum(values) / ALIKE
        if mean <= 0 or any(abs(value - mean) > within * mean for value in values):
            return False
    return True


@dataclass
class Meter:
    """Watches a load through its slices and says when enough was measured.

    ``until_stable``: until the last three windows agree, ``most`` windows at most; else the load ends by itself.
    ``allowed_errors`` is the share (0 to 1) of requests that may fail before the step is given up; ``bad`` counts
    those that matter. ``tell`` gets each window as it ends.
    """

    window: float  # seconds
    most: int
    within: float
    until_stable: bool
    allowed_errors: float
    take: Callable[[], Iterable[Slice]]
    bad: Callable[[], tuple[int, int]]
    tell: Callable[[Window], None] = lambda _window: None
    slices: list[Slice] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    ended: str = ""
    _open: list[Slice] = field(default_factory=list)

    def look(self) -> bool:
        """Takes the new slices; False when the load is to stop."""
        for piece in self.take():
            self.slices.append(piece)
            self._open.append(piece)
            window = join(self._open)
            if window.seconds < self.window * 0.999:
                continue
            if self.until_stable and window.completed < FEWEST and window.seconds < 2 * self.window:
                continue
            self.windows.append(window)
            self.tell(window)
            self._open.clear()
        self.slices = thinned(self.slices)
        if len(self.windows) > MOST:
            del self.windows[: MOST // 2]  # they were told
        completed, failed = self.bad()
        if completed >= LEAST_FOR_ERRORS and failed > self.allowed_errors * completed:
            self.ended = "errors"
        elif self.until_stable and stable(self.windows, self.within):
            self.ended = "stable"
        elif self.until_stable and len(self.windows) >= self.most:
            self.ended = "unstable"
        return not self.ended

    def result(self) -> dict[str, Any]:
        """Windows, slices and the judgement as plain data."""
        return {
            "windows": [window.row() for window in self.windows],
            "slices": [piece.row() for piece in self.slices],
            "stable": stable(self.windows, self.within),
        }
