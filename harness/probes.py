"""Probes: named readers of figures.

A reading is a flat mapping of figure names. A figure that cannot be read here is ``Missing`` with the reason, never 0.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import text

SHM = Path("/dev/shm")
_PROC = Path("/proc")
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO: the inode of the host's own
_NAME_ENDS = re.compile(r"[{\s]")


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


def _counted() -> bool:
    """Whether mallinfo2 knows of what malloc gives: in some programs malloc's address is only a step on its way."""
    process = ctypes.CDLL(None)
    process.mallinfo2.restype, process.malloc.restype = _Mallinfo2, ctypes.c_void_p
    size = 1 << 20
    before = process.mallinfo2()
    pointer = ctypes.c_void_p(process.malloc(ctypes.c_size_t(size)))
    after = process.mallinfo2()
    process.free(pointer)
    return bool(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd >= size)


def heap_probe() -> Probe:
    """``heap_in_use``: bytes that malloc has given out, in all arenas and by mmap (``mallinfo2``).

    Chunks that wait in a thread's cache count as given out; small objects of Python's own do not come from malloc.
    malloc is held, arena after arena, while the free chunks are counted: 5 ms for 200,000 of them.
    """
    allocator, informant = owner("malloc"), owner("mallinfo2")
    if not informant:
        reason = Missing("the C library has no mallinfo2 (glibc 2.33 and newer have it)")
        return Probe("heap", lambda: {"heap_in_use": reason})
    itself = os.path.realpath(allocator) == os.path.realpath(_PROC / "self/exe")
    if allocator != informant and not (itself and _counted()):
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


def metrics_probe(
    metrics: Callable[[], str], families: Collection[str], every: int = 1, *, sums: bool = False
) -> Probe:
    """Chosen families of a text in Prometheus' format, as ``name{label="value",...}``; absent ones are missing.

    ``sums``: one figure a family, ``name``: the sum over all labels.
    """

    parse_metrics("x 1\n", ["x"])  # the parser's import must not look like growth, later on

    def read() -> dict[str, Figure]:
        figures = parse_metrics(metrics(), families)
        return sum_labels(figures) if sums else figures

    return Probe("metrics", read, every)


def sum_labels(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """One figure for each name, the sum over its labels; one that is missing once is missing."""
    summed: dict[str, Figure] = {}
    for labelled, figure in figures.items():
        name = labelled.partition("{")[0]
        before = summed.get(name, 0.0)
        if isinstance(before, float) and isinstance(figure, (int, float)):
            summed[name] = before + figure
        elif not isinstance(before, Missing):
            summed[name] = figure
    return summed


def parse_metrics(exposition: str, families: Collection[str]) -> dict[str, Figure]:
    """The samples of these families; one may be named with or without its ``_total``."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    if not exposition:
        return dict.fromkeys(families, Missing("the metrics are empty"))
    figures: dict[str, Figure] = {}
    wanted = {name.removesuffix("_total"): name for name in families}
    starts = tuple(wanted)
    for comment in ("# HELP ", "# TYPE "):
        starts += tuple(comment + name for name in wanted)
    chosen = [line for line in exposition.splitlines(keepends=True) if line.startswith(starts)]  # the parser is slow
    written = {_NAME_ENDS.split(line, maxsplit=1)[0] for line in chosen}
    for family in text_string_to_metric_families("".join(chosen)):
        base = family.name.removesuffix("_total")
        if base not in wanted:
            continue
        found = False
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            # The parser gives counters the ending _total, which Triton's do not have.
            name = sample.name if sample.name in written else sample.name.removesuffix("_total")
            figure = f"{name}{{{labels}}}" if labels else name
            number = float(sample.value)
            figures[figure] = number if number == number else Missing("not a number in the metrics")  # noqa: PLR0124
            found = True
        if found:
            del wanted[base]
    figures.update({name: Missing("not in the metrics") for name in wanted.values()})
    return figures
