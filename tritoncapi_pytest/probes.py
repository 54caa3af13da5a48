"""``triton_probes``: what a test leaves behind, and what grows while it calls something again and again."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness import probes
from harness.leaks import growth_check
from harness.processes import until
from harness.sampler import Sampler
from harness.verdict import Check, Verdict, overall
from tritoncapi import Library, Server, cuda

from . import state
from .bench import BENCH

PROBES: pytest.StashKey[TestProbes] = pytest.StashKey()
_PATIENCE = 2.0  # seconds that a process may take to end after its server did
_SAMPLES = 50
_BUDGETS = {"heap_in_use": 1024, "descriptors": 0.02, "threads": 0.02, "children": 0.02, "shm_entries": 0.02}
_GPU_BUDGETS = {"gpu_process_bytes": 65536}
_warm: set[int] = set()


@dataclass(frozen=True)
class Levels:
    """What there is at one moment: processes below this one, open descriptors, entries of /dev/shm."""

    processes: Counter[str]
    descriptors: Counter[str]
    shared: Counter[str]

    @classmethod
    def read(cls, prefixes: list[str]) -> Levels:
        """Looks."""
        found = probes.descendants(os.getpid())
        return cls(
            processes=Counter(f"{pid} ({name}{', dead' if state in 'ZX' else ''})" for pid, state, name in found),
            descriptors=Counter(_descriptors()),
            shared=Counter(name for prefix in prefixes for name in _shared(prefix)),
        )


def _descriptors() -> Iterator[str]:
    """What is open; not the devices of a GPU, which its driver keeps."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that it took to look
            target = os.readlink(f"/proc/self/fd/{number}")
            if not target.startswith("/dev/nvidia"):
                yield target


def _shared(prefix: str) -> list[str]:
    found: Any = probes.shm_probe(prefix).read().get("shm_names", [])
    return list(found)


@dataclass
class TestProbes:
    """The fixture ``triton_probes``."""

    __test__ = False  # no test, whatever its name says

    _item: pytest.Item = field(repr=False)
    _prefixes: list[str] = field(repr=False)
    _allowed: Counter[str] = field(default_factory=Counter, repr=False)
    _before: Levels | None = field(default=None, repr=False)

    def begin(self) -> None:
        """Takes the first levels."""
        self._before = Levels.read(self._prefixes)

    def watch_shm(self, prefix: str) -> None:
        """Entries of /dev/shm that begin so, and come up from now on, must be gone at the end too."""
        assert self._before is not None
        self._prefixes.append(prefix)
        self._before.shared.update(_shared(prefix))

    def allow(self, *, processes: int = 0, descriptors: int = 0, shared: int = 0) -> None:
        """So many more of each may be left at the end."""
        self._allowed.update(processes=processes, descriptors=descriptors, shared=shared)

    def left_over(self) -> list[str]:
        """What there is more of than at first, after a while for what is about to end; nothing if all is well."""
        if found := self._risen():
            gc.collect()
            until(lambda: not self._risen(), _PATIENCE if " process" in found[0] else _PATIENCE / 4)
        return self._risen()

    def repeat(
        self,
        call: Callable[[], object],
        times: int = 200,
        *,
        budgets: Mapping[str, float] | None = None,
    ) -> list[Check]:
        """Calls again and again, and fails the test unless every figure is known to grow by less than its budget.

        ``budgets``: bytes or counts a call, added to those for ``heap_in_use`` (1024), ``descriptors``, ``threads``,
        ``children`` and ``shm_entries`` (0.02), and with a GPU ``gpu_process_bytes`` (65536). Figures are read between
        calls, 50 times at most; the slope is judged by its 95 % bounds. Where they do not tell, that is a failure too,
        which says how many more calls would. Returns the checks.
        """
        __tracebackhide__ = True
        on_gpu = cuda.device_count() > 0
        limits = {**_BUDGETS, **(_GPU_BUDGETS if on_gpu else {}), **(budgets or {})}
        if times < 1:
            raise ValueError(f"times={times}: there is nothing to call")
        samples: list[dict[str, Any]] = []
        due = {round(times * number / _SAMPLES) for number in range(1, _SAMPLES + 1)} - {0}
        with Sampler(probes.process_probes(self._prefixes[0], on_gpu), samples.append, None) as sampler:
            for done in range(1, times + 1):
                call()
                if done in due:
                    sampler.sample_now("settled", cycles=done)
        checks = [growth_check(samples, figure, budget, "call") for figure, budget in limits.items()]
        text = "\n".join(f"{check.verdict.value:<7} {check.sentence}" for check in checks)
        verdict = overall(checks)
        if verdict != Verdict.PASS:
            first = next((check for check in checks if check.verdict == verdict), None)
            why = first.sentence if first else "nothing could be measured"
            head = "it grows" if verdict == Verdict.FAIL else "whether it grows cannot be told"
            pytest.fail(f"{times} calls, {head}: {why}\n\n{text}", pytrace=False)
        self._item.add_report_section("call", "probes", text)
        return checks

    def _risen(self) -> list[str]:
        assert self._before is not None
        now = Levels.read(self._prefixes)
        found = []
        for name, noun in (("processes", "process"), ("descriptors", "descriptor"), ("shared", "entry of /dev/shm")):
            first, last = getattr(self._before, name), getattr(now, name)
            # A process is another one if its number is; of descriptors only the number of them counts.
            new = last - first
            rise = last.total() - first.total() if name == "descriptors" else new.total()
            if rise > self._allowed[name]:
                many = "entries of /dev/shm" if name == "shared" else f"{noun}{'es' if noun[-1] == 's' else 's'}"
                names = ", ".join(sorted(new.elements())[:8])
                found.append(f"{rise} {noun if rise == 1 else many} more than before: {names}")
        return found


def begin(item: pytest.Item, library: Library) -> TestProbes:
    """The fixture's value, with the first levels taken. What Triton opens once for a process is opened before."""
    _warm_up(item.config, library)
    made = TestProbes(item, [state.of(item.config).shm_prefix])
    made.begin()
    item.stash[PROBES] = made
    return made


def _warm_up(config: pytest.Config, library: Library) -> None:
    if os.getpid() in _warm:
        return
    for device in range(cuda.device_count()):
        with cuda.current(device):
            pass
    empty = state.folder(config, "triton-empty")
    with Server(empty, library=library, gpu_metrics=False, cpu_metrics=False):
        pass
    _warm.add(os.getpid())
    state.of(config).begin()  # what that logged belongs to no test


def judge(item: pytest.Item) -> None:
    """Closes the servers of a test that passed until now, and fails it for what is left then."""
    bench = item.stash.get(BENCH, None)
    problems = bench.close() if bench is not None else []
    problems += item.stash[PROBES].left_over()
    if problems:
        pytest.fail("left over at the test's end: " + "\n  and ".join(problems), pytrace=False)
