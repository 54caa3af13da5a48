"""Progress: one living line on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_EVERY = 5.0  # seconds between plain lines
_SHOWN = {
    "rss": "RSS",
    "heap_in_use": "heap",
    "gpu_process_bytes": "GPU",
    "threads": "threads",
    "descriptors": "descriptors",
    "children": "children",
}
"""Figures of the newest sample that are shown, and their names there."""


class Progress:
    """Follows a run's journal while it grows. ``tick`` is what ``child.run`` calls."""

    def __init__(self, folder: Path, limit: float) -> None:
        self._journal = _Follower(folder / "journal.jsonl")
        self._samples = _Follower(folder / "samples.jsonl")
        self._figures: dict[str, float] = {}
        self._limit = limit
        self._console: Console | None = None
        self._status: Status | None = None
        self._said = 0.0
        self.phase = "starting up"
        self.done = self.failed = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def tick(self, passed: float) -> None:
        """Shows where the run is after ``passed`` seconds."""
        out = self._out()
        self._follow()
        rate = f", {self.done / passed:.1f}/s" if self.done and passed > 0 else ""
        failures = f", {self.failed} failed" if self.failed else ""
        text = f"{self.phase}: {passed:.0f} s of at most {self._limit:g} s, {self.done} operations{rate}{failures}"
        if self._figures:
            from .leaks import amount  # noqa: PLC0415 - not before the child starts, and not for a run without samples

            text += "".join(f", {_SHOWN[name]} {amount(name, value)}" for name, value in self._figures.items())
        if self._status is not None:
            self._status.update(text)
        elif passed - self._said >= _EVERY:
            self._said = passed
            out.print(text, markup=False)

    def _out(self) -> Console:
        """Made with the first tick: rich is imported while the run starts."""
        if self._console is None:
            from . import report  # noqa: PLC0415

            self._console = report.console(stderr=True)
            if self._console.is_terminal:
                self._status = self._console.status(self.phase)
                self._status.start()
        return self._console

    def _follow(self) -> None:
        for event in self._journal.new():
            if event["event"] == "phase":
                self.phase = event["name"]
            elif event["event"] == "op":
                self.done += 1
                self.failed += event["kind"] == "fail"
        for sample in self._samples.new():
            self._figures |= {name: sample[name] for name in _SHOWN if name in sample}


class _Follower:
    """Reads what is added to a JSONL file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def new(self) -> Iterator[dict[str, Any]]:
        """The records that were completed since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        yield from map(json.loads, lines)
