"""Processes and small files, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def text(path: Path) -> str:
    """A file's text, or nothing."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def until(met: Callable[[], bool], timeout: float) -> bool:
    """Looks again and again until it is met, at first every half millisecond; for states that cannot be waited for."""
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while not met():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    return True


@contextmanager
def environment(**settings: str) -> Iterator[None]:
    """Sets variables that are not set already, and takes them away again at the end: children must not inherit them."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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


def owned(path: str) -> bool:
    """Whether it is there and belongs to this user."""
    try:
        return os.lstat(path).st_uid == os.getuid()
    except OSError:
        return False


def users(library: str) -> list[int]:
    """Processes, as far as this user may look, that have mapped a file of this name."""
    name = "/" + library
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and any(line.endswith(name) for line in text(entry / "maps").splitlines())
    ]


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
