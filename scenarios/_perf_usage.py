"""What a step costs: CPU time of servers, clients and everybody else, and peak memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

CLIENT_BUSY = 0.85  # of a CPU: a client process with one interpreter lock has no more to give
MACHINE_BUSY = 0.95  # of all CPUs: nothing is left, and clients that use more of it than the server set the pace


@dataclass
class Usage:
    """What processes use from now until ``stop()``: CPUs (1.0 is one of them busy all the time) and peak memory."""

    servers: Sequence[int]
    clients: Sequence[int]
    _began: float = 0.0
    _before: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pid in self._trees(self.servers):
            _reset_peak(pid)
        self._before = {pid: _cpu_seconds(pid) for pid in self._trees([*self.servers, *self.clients])}
        self._busy = busy_seconds()
        self._began = time.monotonic()

    def stop(self) -> dict[str, Any]:
        """The figures, as the journal has them; memory in bytes."""
        passed = max(1e-9, time.monotonic() - self._began)

        def cpus(pid: int) -> float:
            return max(0.0, _cpu_seconds(pid) - self._before.get(pid, 0.0)) / passed

        tree = self._trees(self.servers)
        serving = sum(map(cpus, tree))
        peak = sum(map(_peak_rss, tree))
        each = [cpus(pid) for pid in self.clients]
        sending = sum(each)
        others = max(0.0, (busy_seconds() - self._busy) / passed - serving - sending)
        result: dict[str, Any] = {"cpu": serving, "peak_rss": peak, "other_cpu": others, "cpus": _cpus()}
        result |= {"client_cpu": None, "client_bound": False}
        if not self.clients:
            return result
        full = sending + serving >= MACHINE_BUSY * _cpus()
        result["client_cpu"] = sending
        result["client_share"] = sending / (sending + serving) if sending + serving else None
        result["client_bound"] = max(each) >= CLIENT_BUSY or (full and sending > serving)
        return result

    def _trees(self, roots: Sequence[int]) -> list[int]:
        """The processes and their descendants, without each other's (a client may descend from a server's parent)."""
        found: dict[int, None] = dict.fromkeys(roots)
        for root in roots:
            with suppress(psutil.Error):
                found |= dict.fromkeys(child.pid for child in psutil.Process(root).children(recursive=True))
        return list(found)


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def busy_seconds() -> float:
    """What the CPUs that this process may use have worked so far, for anybody; what a hypervisor took counts too."""
    mine = os.sched_getaffinity(0)
    rows = (row for number, row in enumerate(psutil.cpu_times(percpu=True)) if number in mine)
    return sum(sum(row[:8]) - row.idle - getattr(row, "iowait", 0.0) for row in rows)


def _reset_peak(pid: int) -> None:
    """Lets the kernel count the peak from now on, where it may."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_rss(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


