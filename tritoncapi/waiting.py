"""Waiting for states of Triton that nothing announces: one can only look again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

_POLL_FIRST, _POLL_LAST = 0.0005, 0.02  # seconds between two looks


def foreign_threads() -> set[int]:
    """The process's threads that are not Python's: Triton's."""
    return {int(task) for task in os.listdir("/proc/self/task")} - {t.native_id for t in threading.enumerate()}


def asleep(threads: Iterable[int]) -> bool:
    """True when none of these threads is running or ready to."""
    for thread in threads:
        try:
            with open(f"/proc/self/task/{thread}/stat", "rb") as file:
                state = file.read().rpartition(b") ")[2][:1]
        except OSError:  # it has ended
            continue
        if state == b"R":
            return False
    return True


def wait_for(met: Callable[[], bool], timeout: float) -> bool:
    """Looks again and again until it is met; False when the time is over."""
    deadline = time.monotonic() + timeout
    pause = _POLL_FIRST
    while not met():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _POLL_LAST)
    return True
