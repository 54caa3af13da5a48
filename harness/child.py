"""Runs an entry point in a child process that may crash or hang, and says how it ended.

The child gets a process group, a temporary directory and a folder of its own: whatever it leaves behind is found there.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from . import journal
from .journal import Event

SHM = Path("/dev/shm")
_GRACE = 2.0  # seconds that the children of a dead process get to notice it


class Interrupted(Exception):
    """Ctrl-C or SIGTERM while the child ran; it has been ended and cleaned up after."""


@dataclass(frozen=True)
class Job:
    """What the child is to do: call ``entry`` (``module:function``) with the parameters and a journal."""

    entry: str
    parameters: Mapping[str, Any]
    timeout: float  # seconds

    @property
    def shm_prefix(self) -> str:
        """Names of shared memory that the child makes start with this, so that nobody else's are touched."""
        return str(self.parameters.get("shm_prefix", ""))


@dataclass(frozen=True)
class Ended:
    """How the child ended. ``how``: ended, crashed (by ``signal``), hung (the time was over)."""

    how: str
    code: int | None
    seconds: float
    events: list[Event]
    signal: str = ""
    stacks: str = ""
    log: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def phase(self) -> str:
        """What it was doing last."""
        event = journal.last(self.events, "phase")
        return event["name"] if event else "starting up"


def run(job: Job, folder: Path) -> Ended:
    """Runs the job; ``folder`` must be empty and is filled: journal.jsonl, triton.log, stderr.txt, stacks.txt."""
    temporary = folder / "tmp"
    temporary.mkdir()
    (folder / "job.json").write_text(json.dumps({"entry": job.entry, "parameters": dict(job.parameters)}))
    began = time.monotonic()
    how = "ended"
    stacks = ""
    with _terminable(), (folder / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.child_main", str(folder), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            if not _wait(process, job.timeout):
                how = "hung"
                stacks = collect_stacks(process.pid, folder)
        except (KeyboardInterrupt, Interrupted):
            _end(process, job, folder)
            raise Interrupted from None
        leftovers = _end(process, job, folder)
    code = process.returncode
    name = ""
    if how == "ended" and code is not None and code < 0:
        how, name = "crashed", signal.Signals(-code).name
    return Ended(
        how=how,
        code=code,
        seconds=time.monotonic() - began,
        events=journal.read(folder / "journal.jsonl"),
        signal=name,
        stacks=stacks or _text(folder / "stacks.txt"),
        log=_tail(folder / "triton.log"),
        errors=_tail(folder / "stderr.txt"),
        leftovers=leftovers,
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Waits for the end of the process; False when the time is over."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # an older kernel: Popen looks again and again instead
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
        return process.returncode is not None
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
    finally:
        os.close(descriptor)
    process.wait()
    return True


def _end(process: subprocess.Popen[bytes], job: Job, folder: Path) -> list[str]:
    """Ends whatever of the child still runs, removes what it left, and says what that was."""
    alive = process.poll() is None
    left: list[str] = []
    if alive:
        process.kill()
        process.wait()
        until(lambda: not _group(process.pid), _GRACE)  # stubs end by themselves once their host is gone
    elif process.returncode < 0:
        until(lambda: not _group(process.pid), _GRACE)
    survivors = _group(process.pid)
    left += [f"process {pid} ({name})" for pid, name in survivors]
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    until(lambda: not _group(process.pid), _GRACE)
    if job.shm_prefix and SHM.is_dir():
        for entry in SHM.glob(job.shm_prefix + "*"):
            left.append(f"shared memory {entry}")
            entry.unlink(missing_ok=True)
    temporary = folder / "tmp"
    left += [f"temporary file {entry.name}" for entry in sorted(temporary.iterdir())]
    shutil.rmtree(temporary, ignore_errors=True)
    return left


def until(met: Callable[[], bool], timeout: float) -> bool:
    """Looks again and again until it is met; for states that cannot be waited for."""
    deadline = time.monotonic() + timeout
    while not met():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def _group(leader: int) -> list[tuple[int, str]]:
    """Living processes of the child's session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue
        name = text[text.index("(") + 1 : text.rindex(")")]
        state, _parent, _group_id, session = text[text.rindex(")") + 2 :].split()[:4]
        if int(session) == leader and int(entry.name) != leader and state != "Z":
            found.append((int(entry.name), name))
    return found


def collect_stacks(pid: int, folder: Path) -> str:
    """Stacks of all threads of a process: Python's by faulthandler, native ones by gdb if it is there, else /proc."""
    path = folder / "stacks.txt"
    before = len(_text(path))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)
    until(lambda: len(_text(path)) > before, 2.0)
    python = _settled(path)
    return python.rstrip() + "\n\n" + (_gdb(pid) or _proc_threads(pid))


def _settled(path: Path) -> str:
    """The file's text once it no longer grows."""
    text = _text(path)
    while True:
        time.sleep(0.05)
        again = _text(path)
        if again == text:
            return text
        text = again


def _gdb(pid: int) -> str:
    gdb = shutil.which("gdb")
    if gdb is None:
        return ""
    command = [gdb, "-p", str(pid), "-batch", "-nx", "-ex", "set pagination off", "-ex", "thread apply all bt 24"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("Thread ", "#"))]
    return "Native stacks (gdb):\n" + "\n".join(lines) + "\n" if lines else ""


def _proc_threads(pid: int) -> str:
    lines = ["Native threads (no gdb on this machine; from /proc):"]
    with suppress(OSError):
        for task in sorted((Path("/proc") / str(pid) / "task").iterdir()):
            fields = {name: _text(task / name).strip() for name in ("comm", "wchan", "syscall")}
            where = f"waits in {fields['wchan'] or '?'} [{fields['syscall'][:40]}]"
            lines.append(f"  {task.name} {fields['comm']}: {where}")
    return "\n".join(lines) + "\n"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _tail(path: Path, lines: int = 4000) -> list[str]:
    return _text(path).splitlines()[-lines:]
