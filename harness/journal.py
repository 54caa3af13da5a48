"""Journal: what a run did, line by line as it happens, so that a crash loses nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Journal:
    """Appends events to a JSONL file; each is on disk's way before ``write`` returns. Threads may share it."""

    def __init__(self, path: Path, ask_for_stacks: Callable[[], None] = lambda: None) -> None:
        """``ask_for_stacks`` has somebody outside collect this process's stacks."""
        self.ask_for_stacks = ask_for_stacks
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def write(self, event: str, **fields: Any) -> None:
        """Adds one event with the time in ns of CLOCK_MONOTONIC."""
        line = json.dumps({"event": event, "time_ns": time.monotonic_ns(), **fields}, default=str)
        with self._lock:
            self._file.write(line + "\n")

    def phase(self, name: str) -> None:
        """Says what the run is about to do; the last phase tells where a crash or a hang was."""
        self.write("phase", name=name)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(path: Path) -> list[Event]:
    """The events of a journal; a line that a crash cut short is left out."""
    events: list[Event] = []
    if not path.exists():
        return events
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
    return events


def is_whole(event: Event) -> bool:
    """Whether it has what ``Journal.write`` gives every event; a line without it was edited."""
    return isinstance(event.get("event"), str) and isinstance(event.get("time_ns"), int)


def last(events: list[Event], name: str) -> Event | None:
    """The newest event of this name."""
    return next((event for event in reversed(events) if event.get("event") == name), None)


def all_of(events: list[Event], name: str) -> list[Event]:
    """The events of this name."""
    return [event for event in events if event.get("event") == name]
