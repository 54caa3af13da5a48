"""watch: a load that runs itself is looked at until it is over, and stopped when it was seen enough of."""

from __future__ import annotations

from harness.load import watch


class Running:
    """A load that is over after so many waits, or a little after it was stopped."""

    def __init__(self, waits: int) -> None:
        self.left = waits
        self.timeouts: list[float | None] = []
        self.starts = self.stops = 0

    def start(self) -> None:
        self.starts += 1

    def wait(self, timeout: float | None = None) -> bool:
        self.timeouts.append(timeout)
        self.left -= 1
        return self.left <= 0

    def stop(self) -> None:
        self.stops += 1
        self.left = 2


def test_it_is_looked_at_until_it_is_over() -> None:
    load, looks = Running(5), []
    watch(load, 10.0, lambda: not looks.append(None))  # type: ignore[func-returns-value]
    assert (load.starts, load.stops, len(looks)) == (1, 0, 5)


def test_it_is_stopped_once() -> None:
    load, looks = Running(1000), []

    def look() -> bool:
        looks.append(None)
        return len(looks) < 3

    watch(load, 10.0, look)
    assert (load.stops, len(looks)) == (1, 5)
