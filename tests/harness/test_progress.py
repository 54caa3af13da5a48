"""Progress: what a person sees while a run goes on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from harness import report
from harness.progress import Progress


def on(out: io.StringIO, monkeypatch: pytest.MonkeyPatch, **more: bool) -> None:
    monkeypatch.setattr(report, "console", lambda **_: Console(file=out, width=200, **more))  # type: ignore[arg-type]


def test_plain_lines_have_phase_time_rate_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    on(out, monkeypatch)
    journal, samples = tmp_path / "journal.jsonl", tmp_path / "samples.jsonl"
    with Progress(tmp_path, 60) as progress:
        progress.tick(6)
        events = [{"event": "phase", "name": "running"}, *({"event": "op", "kind": kind} for kind in ("ok", "fail"))]
        journal.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "op", ')
        samples.write_text(json.dumps({"rss": 3 << 20, "threads": 7, "zombies": 0}) + "\n")
        progress.tick(7)  # too soon for another line
        progress.tick(12)
        with journal.open("a") as file:
            file.write('"kind": "ok"}\n')
        progress.tick(20)
    lines = out.getvalue().splitlines()
    assert lines == [
        "starting up: 6 s of at most 60 s, 0 operations",
        "running: 12 s of at most 60 s, 2 operations, 0.2/s, 1 failed, RSS 3 MiB, threads 7",
        "running: 20 s of at most 60 s, 3 operations, 0.1/s, 1 failed, RSS 3 MiB, threads 7",
    ]


def test_a_terminal_has_one_living_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    on(out, monkeypatch, force_terminal=True)
    with Progress(tmp_path, 60) as progress:
        progress.tick(1)
    assert "starting up" in out.getvalue()
