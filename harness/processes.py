"""Processes and small files, read from /proc."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def text(path: Path) -> str:
    """A file's text, or nothing."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def until(met: Callable[[], bool], timeout: float) -> bool:
    """Looks again and again until it is met; for states that cannot be waited for."""
    deadline = time.monotonic() + timeout
    while not met():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def session(leader: int) -> list[tuple[int, str]]:
    """Living processes, with their names, of the session that ``leader`` began; without itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        stat = text(entry / "stat")
        if not stat:
            continue
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        state, _parent, _group, its_session = stat[stat.rindex(")") + 2 :].split()[:4]
        if int(its_session) == leader and int(entry.name) != leader and state != "Z":
            found.append((int(entry.name), name))
    return found


def threads(pid: int) -> list[str]:
    """A line for each thread: its name, its state, and what it waits for in the kernel."""
    lines = []
    with suppress(OSError):
        for task in sorted((Path("/proc") / str(pid) / "task").iterdir()):
            stat = text(task / "stat")
            state = stat[stat.rindex(")") + 2 :][:1] if stat else "?"
            where = text(task / "wchan").strip() or "?"
            lines.append(f"{task.name} {text(task / 'comm').strip()}: {state}, waits in {where}")
    return lines
