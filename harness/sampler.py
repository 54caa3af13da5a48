"""Sampler: asks probes on a thread of its own and writes their readings down as a run goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from .probes import NO_PROBES, Figure, Missing, Probe

Sample = dict[str, Any]
_PATIENCE = 10.0  # seconds that a probe may take before it counts as stuck
_OWN = {"time_ns", "label", "missing", "cost_ns"}


@dataclass(frozen=True)
class Cost:
    """Wall time that readings took, in ns."""

    count: int = 0
    total_ns: int = 0
    max_ns: int = 0

    @property
    def mean_ns(self) -> float:
        """The mean; 0 before the first."""
        return self.total_ns / self.count if self.count else 0.0

    def add(self, ns: int) -> Cost:
        """The cost with one more."""
        return Cost(self.count + 1, self.total_ns + ns, max(self.max_ns, ns))


class Sampler:
    """Reads probes on a thread of its own and writes each sample at once: to a JSONL file, or to a callable.

    A sample is ``{"time_ns": CLOCK_MONOTONIC, figures..., "cost_ns": what reading took}``, with a ``label`` if it was
    asked for, and with ``missing`` (figure: reason) if anything is. A probe that raises is written down once, as
    ``{"probe": ..., "probe_error": ...}``, and asked no more; its figures are missing from then on.
    """

    def __init__(
        self,
        probes: Sequence[Probe] = NO_PROBES,
        to: Path | Callable[[Sample], None] = lambda _: None,
        interval: float | None = 1.0,
    ) -> None:
        """``interval``: seconds; None samples at ``sample_now`` only."""
        names = [probe.name for probe in probes]
        if len(set(names)) != len(names):
            raise ValueError(f"two probes have one name: {', '.join(names)}")
        if interval is not None and interval <= 0:
            raise ValueError(f"the interval must be above 0, not {interval}")
        self._probes = list(probes)
        self._interval = interval
        self._to = to
        self._file: TextIO | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._reading = ""
        self._figures: dict[str, set[str]] = {}
        self._broken: dict[str, Missing] = {}
        self.cost = Cost()
        self.costs: dict[str, Cost] = {}
        self.error: Exception | None = None

    def __enter__(self) -> Sampler:
        if isinstance(self._to, Path):
            self._file = self._to.open("a", encoding="utf-8", buffering=1)
        if self._interval is not None:
            self._thread = threading.Thread(target=self._run, args=(self._interval,), name="sampler", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.error is not None and error is None:
            raise self.error

    def stop(self) -> None:
        """Ends the thread; a probe that is stuck is left behind, and said so. ``error`` is what ended it before."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                self._write({"probe": self._reading, "probe_error": f"still reading after {_PATIENCE:g} s"})
                return  # the file stays open: that thread may yet write to it
            self._thread = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def sample_now(self, label: str, **more: Any) -> Sample:
        """Reads every probe here and now, rare ones too; ``more`` (``cycles=40``) goes into the sample.

        Raises TimeoutError while another thread's reading is stuck.
        """
        if taken := _OWN & set(more):
            raise ValueError(f"{', '.join(sorted(taken))}: the sampler's own names")
        if not self._lock.acquire(timeout=_PATIENCE):
            raise TimeoutError(f"the probe {self._reading} is still reading after {_PATIENCE:g} s")
        try:
            return self._sample({"label": label, **more}, self._probes)
        finally:
            self._lock.release()

    def _run(self, interval: float) -> None:
        tick, due = 0, time.monotonic()
        try:
            while not self._over.wait(max(0.0, due - time.monotonic())):
                with self._lock:
                    self._sample({}, [probe for probe in self._probes if tick % probe.every == 0])
                tick += 1
                due = max(due + interval, time.monotonic())  # late ones are left out, not made up for
        except Exception as error:  # the disk is full: whoever asks for the samples must hear of it
            self.error = error

    def _sample(self, head: Sample, probes: Sequence[Probe]) -> Sample:
        sample: Sample = {"time_ns": time.monotonic_ns(), **head}
        missing: dict[str, str] = {}
        began = time.perf_counter_ns()
        for probe in probes:
            reading = self._read(probe, _OWN | set(head))
            missing |= {figure: value for figure, value in reading.items() if isinstance(value, Missing)}
            sample |= {figure: value for figure, value in reading.items() if not isinstance(value, Missing)}
        if missing:
            sample["missing"] = missing
        sample["cost_ns"] = time.perf_counter_ns() - began
        self.cost = self.cost.add(sample["cost_ns"])
        self._write(sample)
        return sample

    def _read(self, probe: Probe, taken: set[str]) -> dict[str, Figure]:
        if probe.name not in self._broken:
            self._reading = probe.name
            start = time.perf_counter_ns()
            try:
                reading = dict(probe.read())
                if clash := taken & set(reading):
                    raise ValueError(f"{', '.join(sorted(clash))}: the sampler's own names")
            except Exception as error:  # whatever it is, the other probes go on
                what = f"{type(error).__name__}: {error}"
                self._broken[probe.name] = Missing(f"the probe {probe.name} broke: {what}")
                self._write({"time_ns": time.monotonic_ns(), "probe": probe.name, "probe_error": what})
            else:
                self.costs[probe.name] = self.costs.get(probe.name, Cost()).add(time.perf_counter_ns() - start)
                self._figures.setdefault(probe.name, set()).update(reading)
                return reading
        return dict.fromkeys(self._figures.get(probe.name) or [probe.name], self._broken[probe.name])

    def _write(self, sample: Sample) -> None:
        if isinstance(self._to, Path):
            if self._file is None:
                raise RuntimeError("the sampler is not running")
            self._file.write(json.dumps(sample, default=str) + "\n")
        else:
            self._to(sample)
