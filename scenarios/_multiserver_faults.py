"""multiserver's own fault: the stub of one thread's Python model is killed while its server serves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.processes import text, until
from harness.scenario import Context

KILL_STUB = "kill_stub"
_STUB = "triton_python_backend_stub"
_PATIENCE = 30.0  # seconds


@dataclass
class Strike:
    """When the stub of ``model`` (its folder) is killed: in the thread's loop ``loop``, between load and inference."""

    worker: int
    model: Path
    loop: int = 0
    due: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def meet(self, worker: int, number: int) -> None:
        """Called by every thread between load and inference: the one that is hit waits there for the blow."""
        if (worker, number) == (self.worker, self.loop):
            self.due.set()
            self.done.wait(_PATIENCE)


def kill_stub(context: Context, fleet: Any, over: Callable[[], bool]) -> None:
    """Kills the stub with SIGKILL, once. Raises RuntimeError when there was nothing to kill."""
    strike: Strike = fleet.strike
    try:
        while not strike.due.wait(0.1):
            if over():
                raise RuntimeError(f"thread {strike.worker} never came to serve")
        pid = stub_of(strike.model)
        os.kill(pid, signal.SIGKILL)
        if not until(lambda: not alive(pid), _PATIENCE):
            raise RuntimeError(f"the stub {pid} outlives SIGKILL")
        context.journal.write("struck", what="stub", pid=pid, worker=strike.worker, loop=strike.loop)
    finally:
        strike.done.set()


def stub_of(model: Path) -> int:
    """The stub that runs this model. Raises RuntimeError when there is none."""
    from harness.probes import descendants  # noqa: PLC0415

    for pid, state, _ in descendants(os.getpid()):
        words = text(Path(f"/proc/{pid}/cmdline")).split("\0")
        ours = any(word.startswith(f"{model}/") for word in words)
        if state != "Z" and ours and words[0].endswith(_STUB):
            return pid
    raise RuntimeError(f"no stub runs {model}")


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    stat = text(Path(f"/proc/{pid}/stat"))
    return bool(stat) and stat[stat.rindex(")") + 2 :][:1] != "Z"
