"""Probes: named readers of figures, and the sampler that writes their readings down as a run goes on.

A reading is a flat mapping of figure names. A figure that cannot be read here is ``Missing`` with the reason, never 0.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from .processes import text

Sample = dict[str, Any]
SHM = Path("/dev/shm")
_PROC = Path("/proc")
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO: the inode of the host's own
_PATIENCE = 10.0  # seconds that a probe may take before it counts as stuck
_OWN = {"time_ns", "label", "missing", "cost_ns"}


class Missing(str):
    """Stands for a figure that could not be read: the reason."""

    __slots__ = ()


Figure = float | int | list[str] | Missing


@dataclass(frozen=True)
class Probe:
    """A named reader. The sampler asks it at every ``every``-th tick, and at each quiescent point."""

    name: str
    read: Callable[[], Mapping[str, Figure]]
    every: int = 1


NO_PROBES: tuple[Probe, ...] = ()


def process_probes(shm_prefix: str = "", gpu: bool = False) -> list[Probe]:
    """The probes of the own process; shared memory only with a prefix, so that nobody else's is counted."""
    probes = [heap_probe(), rss_probe(), pss_probe(), descriptors_probe(), threads_probe(), children_probe()]
    if shm_prefix:
        probes.append(shm_probe(shm_prefix))
    if gpu:
        probes.append(gpu_probe())
    return probes


# Memory


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class _DlInfo(ctypes.Structure):
    _fields_ = [
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    ]


def owner(symbol: str) -> str:
    """The file of the library that this process takes a C function from; nothing when there is none."""
    try:
        process = ctypes.CDLL(None)
        function, dladdr = getattr(process, symbol), process.dladdr
    except (OSError, AttributeError):
        return ""
    dladdr.argtypes, dladdr.restype = [ctypes.c_void_p, ctypes.POINTER(_DlInfo)], ctypes.c_int
    info = _DlInfo()
    if not dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(info)):
        return ""
    return os.fsdecode(info.dli_fname or b"")


def heap_probe() -> Probe:
    """``heap_in_use``: bytes that malloc has given out, in all arenas and by mmap (``mallinfo2``).

    Chunks that wait in a thread's cache count as given out; small objects of Python's own do not come from malloc.
    malloc is held, arena after arena, while the free chunks are counted: 5 ms for 200,000 of them.
    """
    allocator, informant = owner("malloc"), owner("mallinfo2")
    if not informant:
        reason = Missing("the C library has no mallinfo2 (glibc 2.33 and newer have it)")
        return Probe("heap", lambda: {"heap_in_use": reason})
    if allocator != informant:
        reason = Missing(f"malloc is that of {allocator or 'an unknown library'}, mallinfo2 that of {informant}")
        return Probe("heap", lambda: {"heap_in_use": reason})
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.argtypes, mallinfo2.restype = [], _Mallinfo2

    def read() -> dict[str, Figure]:
        info = mallinfo2()
        return {"heap_in_use": info.uordblks + info.hblkhd}

    return Probe("heap", read)


def rss_probe() -> Probe:
    """``rss``: resident bytes, shared pages counted in full."""
    page = os.sysconf("SC_PAGE_SIZE")

    def read() -> dict[str, Figure]:
        return {"rss": int((_PROC / "self/statm").read_text().split()[1]) * page}

    return Probe("rss", read)


def pss_probe(every: int = 10) -> Probe:
    """``pss``: resident bytes, each shared page divided among its users. The kernel walks every mapping for it."""

    def read() -> dict[str, Figure]:
        for line in text(_PROC / "self/smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                return {"pss": int(line.split()[1]) * 1024}
        return {"pss": Missing("the kernel shows no smaps_rollup")}

    return Probe("pss", read, every)


# Descriptors, threads, processes, shared memory


def descriptors_probe() -> Probe:
    """``descriptors``: those that are open, without the one that it takes to look."""
    return Probe("descriptors", lambda: {"descriptors": len(os.listdir("/proc/self/fd")) - 1})


def threads_probe() -> Probe:
    """``threads``: the native ones, of Python or not; the sampler's own among them while it runs."""

    def read() -> dict[str, Figure]:
        stat = (_PROC / "self/stat").read_text(errors="replace")
        return {"threads": int(stat[stat.rindex(")") + 2 :].split()[17])}

    return Probe("threads", read)


def children_probe(every: int = 5) -> Probe:
    """``children``: living descendants; ``zombies``: dead ones that nobody reaped, and ``zombie_names``.

    Every process of the machine is looked at, at 10 us each.
    """

    def read() -> dict[str, Figure]:
        alive, dead = 0, []
        for pid, state, name in descendants(os.getpid()):
            if state in "ZX":
                dead.append(f"{pid} ({name})")
            else:
                alive += 1
        figures: dict[str, Figure] = {"children": alive, "zombies": len(dead)}
        return {**figures, "zombie_names": dead} if dead else figures

    return Probe("children", read, every)


def descendants(pid: int) -> list[tuple[int, str, str]]:
    """Process, state and name of everything below ``pid``; what lost its parent on the way is not found."""
    below: dict[int, list[tuple[int, str, str]]] = {}
    for entry in os.listdir(_PROC):
        if not entry.isdigit():
            continue
        try:
            descriptor = os.open(f"/proc/{entry}/stat", os.O_RDONLY)
        except OSError:
            continue  # it ended meanwhile
        try:  # there may be thousands: a file object for each would cost twice as much
            stat = os.read(descriptor, 4096).decode(errors="replace")
        except OSError:
            continue
        finally:
            os.close(descriptor)
        if ")" not in stat:
            continue
        state, parent = stat[stat.rindex(")") + 2 :].split(maxsplit=2)[:2]
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        below.setdefault(int(parent), []).append((int(entry), state, name))
    found: list[tuple[int, str, str]] = []
    parents = [pid]
    while parents:
        children = below.get(parents.pop(), [])
        found += children
        parents += [child for child, _, _ in children]
    return found


def shm_probe(prefix: str, folder: Path = SHM) -> Probe:
    """``shm_entries``, ``shm_names``, ``shm_bytes`` (their sizes) and ``shm_allocated_bytes`` (what they hold)."""
    if not prefix:
        raise ValueError("a prefix is needed: everything in /dev/shm would count")

    def read() -> dict[str, Figure]:
        names, size, allocated = [], 0, 0
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith(prefix):
                        continue
                    try:
                        stat = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    names.append(entry.name)
                    size += stat.st_size
                    allocated += stat.st_blocks * 512
        except OSError as error:
            reason = Missing(f"{folder}: {error.strerror}")
            return {"shm_entries": reason, "shm_bytes": reason, "shm_allocated_bytes": reason}
        return {
            "shm_entries": len(names),
            "shm_bytes": size,
            "shm_allocated_bytes": allocated,
            "shm_names": sorted(names),
        }

    return Probe("shm", read)


# GPU


def gpu_probe(every: int = 1) -> Probe:
    """Bytes: ``gpuN_used_bytes`` of each device, ``gpuN_process_bytes`` of this process and those below it.

    ``gpu_process_bytes`` is the sum over the devices. Where NVML does not attribute memory to processes, or where
    its process numbers are not those seen here, the figures of the process are missing.
    """
    nvml = _Nvml()
    return Probe("gpu", nvml.read, every)


class _Nvml:
    """NVML, begun at the first reading and kept: beginning takes milliseconds and opens descriptors."""

    def __init__(self) -> None:
        self._devices: list[Any] | None = None
        self._reason = ""
        self._numbers_match = not _in_container()

    def read(self) -> dict[str, Figure]:
        if self._devices is None and not self._reason:
            self._begin()
        if self._devices is None:
            return {"gpu_process_bytes": Missing(self._reason)}
        import pynvml  # noqa: PLC0415 - not everybody has a GPU

        figures: dict[str, Figure] = {}
        for index, device in enumerate(self._devices):
            try:
                figures[f"gpu{index}_used_bytes"] = int(pynvml.nvmlDeviceGetMemoryInfo(device).used)
            except pynvml.NVMLError as error:
                figures[f"gpu{index}_used_bytes"] = Missing(f"NVML: {error}")
        try:
            listed = [pynvml.nvmlDeviceGetComputeRunningProcesses(device) for device in self._devices]
        except pynvml.NVMLError as error:
            return {**figures, "gpu_process_bytes": Missing(f"NVML: {error}")}
        own = os.getpid()
        pids = {own}
        if any(process.pid != own for processes in listed for process in processes):
            pids |= {pid for pid, _, _ in descendants(own)}
        ours = [[process.usedGpuMemory for process in processes if process.pid in pids] for processes in listed]
        self._numbers_match |= any(ours)
        if not self._numbers_match:
            reason = "NVML lists no process of ours, but its process numbers need not be those of this container"
            return {**figures, "gpu_process_bytes": Missing(reason)}
        if any(None in sizes for sizes in ours):
            return {**figures, "gpu_process_bytes": Missing("NVML does not attribute memory to processes here")}
        figures.update({f"gpu{index}_process_bytes": sum(sizes) for index, sizes in enumerate(ours)})
        return {**figures, "gpu_process_bytes": sum(map(sum, ours))}

    def _begin(self) -> None:
        try:
            import pynvml  # noqa: PLC0415

            pynvml.nvmlInit()
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except Exception as error:  # no module, no driver, no library, no device: all the same here
            self._reason = f"NVML: {error}"
        else:
            if not self._devices:
                self._devices, self._reason = None, "NVML shows no device"


def _in_container() -> bool:
    """Whether process numbers here are not the host's."""
    try:
        return os.stat(_PROC / "self/ns/pid").st_ino != _FIRST_PID_NAMESPACE
    except OSError:
        return True


# Metrics


def metrics_probe(metrics: Callable[[], str], families: Collection[str], every: int = 1) -> Probe:
    """Chosen families of a text in Prometheus' format, as ``name{label="value",...}``; absent ones are missing."""
    return Probe("metrics", lambda: parse_metrics(metrics(), families), every)


def parse_metrics(exposition: str, families: Collection[str]) -> dict[str, Figure]:
    """The samples of these families; one may be named with or without its ``_total``."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    figures: dict[str, Figure] = {}
    wanted = {name.removesuffix("_total"): name for name in families}
    starts = tuple(wanted)
    for comment in ("# HELP ", "# TYPE "):
        starts += tuple(comment + name for name in wanted)
    chosen = [line for line in exposition.splitlines(keepends=True) if line.startswith(starts)]  # the parser is slow
    for family in text_string_to_metric_families("".join(chosen)):
        base = family.name.removesuffix("_total")
        if base not in wanted:
            continue
        found = False
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            figure = f"{sample.name}{{{labels}}}" if labels else sample.name
            number = float(sample.value)
            figures[figure] = number if number == number else Missing("not a number in the metrics")  # noqa: PLR0124
            found = True
        if found:
            del wanted[base]
    figures.update({name: Missing("not in the metrics") for name in wanted.values()})
    return figures


# Sampling


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
