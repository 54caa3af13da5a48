"""Runs an entry point in a child process that may crash or hang, and says how it ended.

The child gets a process group, a temporary directory and a folder of its own: whatever it leaves behind is found there.
"""

from __future__ import annotations

import glob
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

from . import journal
from .journal import Event
from .processes import owned, session, text, until, users
from .stacks import collect

SHM = Path("/dev/shm")
_WATCHDOG = Path(__file__).parent / "watchdog.py"
_TICK = 0.2  # seconds
_GRACE = 2.0  # seconds that the children of a dead process get to notice it


class Interrupted(Exception):
    """Ctrl-C or SIGTERM while the child ran; it has been ended and cleaned up after."""


@dataclass(frozen=True)
class Job:
    """What the child is to do: call ``entry`` (``module:function``) with the parameters and a journal."""

    entry: str
    parameters: Mapping[str, Any]
    timeout: float  # seconds
    litter: Mapping[str, str] = field(default_factory=dict)
    """What a library of the child's makes outside its folder: glob pattern -> file name of the library."""

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
    litter: list[str] = field(default_factory=list)
    """Folders that came up while the child ran, of a kind that it makes; another process may have made them."""
    looked: bool = True
    """Whether anybody looked at what is left; not in the process itself."""

    @property
    def phase(self) -> str:
        """What it was doing last."""
        event = journal.last(self.events, "phase")
        return str(event.get("name")) if event else "starting up"


def run(
    job: Job,
    folder: Path,
    tick: Callable[[float], None] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Ended:
    """Runs the job; ``folder`` is filled: journal.jsonl, triton.log, stderr.txt, stacks.txt.

    It must be empty, or an earlier job's that crashed: what that one wrote is added to.

    The folder is the child's working directory too, so that no file of the caller's is imported by accident.
    ``meanwhile`` is called once, as soon as the child starts: the place for work that need not be done before.
    ``tick`` is called a few times a second with the seconds that have passed.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    (folder / "job.json").write_text(json.dumps({"entry": job.entry, "parameters": dict(job.parameters)}))
    before = {path for pattern in job.litter for path in glob.glob(pattern)}
    began = time.monotonic()
    ours, theirs = socket.socketpair()
    with _Ending() as ending, ours, _watched(job, temporary) as watch, (folder / "stderr.txt").open("ab") as stderr:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "harness.child_main", str(folder), str(os.getpid()), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            watch.write(b"%d\n" % process.pid)
            meanwhile()  # unarmed: an interrupted run is described too
            with ending.armed():
                hung = not _wait(process, began, job.timeout, ours, folder, tick)
                if hung:
                    collect(process.pid, folder)
        finally:  # a second Ctrl-C does not keep this from being done
            leftovers = _end(process, job, folder)
            litter = _sweep(job, before)
            watch.write(b"over\n")
    code = process.returncode
    crashed = not hung and code is not None and code < 0
    return Ended(
        how="hung" if hung else "crashed" if crashed else "ended",
        code=code,
        seconds=time.monotonic() - began,
        signal=signal.Signals(-code).name if crashed else "",
        leftovers=leftovers,
        litter=litter,
        **evidence(folder),
    )


def evidence(folder: Path) -> dict[str, Any]:
    """What a run has written into its folder, as fields of Ended."""
    return {
        "events": journal.read(folder / "journal.jsonl"),
        "stacks": text(folder / "stacks.txt"),
        "log": _tail(folder / "triton.log"),
        "errors": _tail(folder / "stderr.txt"),
    }


@contextmanager
def _watched(job: Job, temporary: Path) -> Iterator[IO[bytes]]:
    """A small process that clears up if this one is killed: the child dies with us, its own children need not."""
    command = [sys.executable, "-I", "-S", str(_WATCHDOG), job.shm_prefix, str(temporary)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        start_new_session=True,  # what kills our process group must not kill it too
    )
    assert process.stdin is not None
    with process, process.stdin as pipe:
        yield pipe


class _Ending:
    """SIGINT, SIGTERM, SIGHUP and SIGQUIT raise Interrupted, once, and only while armed: what came before, on arming.

    One that comes after disarming is raised at the end of the with block, when everything has been cleaned up.
    """

    def __init__(self) -> None:
        self._armed = self._seen = self._raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Ending:
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
            self._before = {number: signal.signal(number, self._stop) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self._raise_once()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Lets the signals through."""
        self._armed = True
        try:
            self._raise_once()
            yield
        finally:
            self._armed = False

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._seen = True
        if self._armed:
            self._raise_once()

    def _raise_once(self) -> None:
        if self._seen and not self._raised:
            self._raised = True
            raise Interrupted


def _wait(
    process: subprocess.Popen[bytes],
    began: float,
    timeout: float,
    line: socket.socket,
    folder: Path,
    tick: Callable[[float], None] | None,
) -> bool:
    """Waits for the end of the process, and serves its wishes for stacks; False when the time is over."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(line, select.POLLIN)
        while True:
            passed = time.monotonic() - began
            if passed >= timeout:
                return False
            if tick is not None:
                tick(passed)
            pause = timeout - passed if tick is None else min(_TICK, timeout - passed)
            ready = {number for number, _ in poll.poll(pause * 1000 + 1)}
            if descriptor in ready:
                process.wait()
                return True
            if not ready:
                continue
            if line.recv(1):
                collect(process.pid, folder)
                line.send(b"k")
            else:
                poll.unregister(line)
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes], job: Job, folder: Path) -> list[str]:
    """Ends whatever of the child still runs, removes what it left, and says what that was."""
    pid = process.pid
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.returncode < 0:
        until(lambda: not session(pid), _GRACE)  # stubs end by themselves once their host is gone
    left = [f"process {other} ({name})" for other, name in session(pid)]
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    until(lambda: not session(pid), _GRACE)
    if job.shm_prefix and SHM.is_dir():
        for entry in SHM.glob(job.shm_prefix + "*"):
            left.append(f"shared memory {entry}")
            entry.unlink(missing_ok=True)
    temporary = folder / "tmp"
    left += [f"temporary file {entry.name}" for entry in sorted(temporary.iterdir())]
    shutil.rmtree(temporary, ignore_errors=True)
    return left


def _sweep(job: Job, before: set[str]) -> list[str]:
    """Removes the folders of the kinds that the child makes that have come up since, unless somebody may use them."""
    swept = []
    for pattern, library in job.litter.items():
        new = sorted(path for path in set(glob.glob(pattern)) - before if owned(path))
        if new and not users(library):
            for path in new:
                shutil.rmtree(path, ignore_errors=True)
            swept += new
    return swept


def _tail(path: Path, lines: int = 4000) -> list[str]:
    return text(path).splitlines()[-lines:]
