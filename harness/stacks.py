"""Stacks of a process that hangs, and of its children: Python and native frames of every thread."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .processes import session, text, threads, until

_LIMIT = 15.0  # seconds for one process


def collect(pid: int, folder: Path) -> str:
    """Writes the stacks of the child ``pid`` and of its own children to ``folder/stacks.txt``; returns them.

    py-spy sees the Python threads with their native frames; gdb, if it is there, the native frames of all threads.
    faulthandler, armed in the child, works where nobody is allowed to look; /proc tells where each thread waits.
    """
    path = folder / "stacks.txt"
    parts = [_spy(pid) or f"Process {pid}:\n{_faulthandler(pid, path)}", _gdb(pid)]
    for other, name in session(pid):
        parts += [f"\nChild process {other} ({name}):", _spy(other), _gdb(other)]
    for other in [pid, *(other for other, _ in session(pid))]:
        parts += [f"\nThreads of {other}:", *(f"  {line}" for line in threads(other))]
    found = "\n".join(part.rstrip("\n") for part in parts if part) + "\n"
    path.write_text(found)
    return found


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _spy(pid: int) -> str:
    beside = Path(sys.executable).parent / "py-spy"
    spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if spy is None:
        return ""
    return _run([spy, "dump", "--native", "--pid", str(pid)]) or _run([spy, "dump", "--pid", str(pid)])


def _gdb(pid: int) -> str:
    gdb = shutil.which("gdb")  # not cuda-gdb: it leaves an agent in the process
    if gdb is None:
        return ""
    out = _run([gdb, "-p", str(pid), "-batch", "-nx", "-ex", "set pagination off", "-ex", "thread apply all bt 24"])
    lines = [line for line in out.splitlines() if line.startswith(("Thread ", "#"))]
    return "\n".join([f"\nNative stacks of {pid}:", *lines]) if lines else ""


def _faulthandler(pid: int, path: Path) -> str:
    before = len(text(path))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)
    until(lambda: len(text(path)) > before, 2.0)
    found = ""
    while found != text(path):  # until it no longer grows
        found = text(path)
        until(lambda: False, 0.05)
    return found
