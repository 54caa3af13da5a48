"""The journal: written as it happens, readable after a crash."""

from __future__ import annotations

import threading
from pathlib import Path

from harness import journal


def test_written_at_once_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    book = journal.Journal(path)
    book.phase("one")
    book.write("value", number=1, path=path)
    events = journal.read(path)  # before it is closed
    book.close()
    assert [event["event"] for event in events] == ["phase", "value"]
    assert events[1]["path"] == str(path)
    assert events[0]["time_ns"] <= events[1]["time_ns"]
    assert journal.last(events, "phase") == events[0]
    assert journal.last(events, "nothing") is None
    assert journal.all_of(events, "value") == [events[1]]


def test_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"event": "a"}\n[1]\n{"event": "b", "x')
    assert [event["event"] for event in journal.read(path)] == ["a"]
    assert journal.read(tmp_path / "missing") == []


def test_threads_do_not_mix_lines(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    book = journal.Journal(path)
    threads = [threading.Thread(target=lambda: [book.write("e", text="x" * 500) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    book.close()
    assert len(journal.read(path)) == 800
