"""Probes see what really happens in this process; the sampler outlives what breaks."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import journal, probes
from harness.probes import Figure, Missing, Probe
from harness.processes import until
from harness.sampler import Cost, Sample, Sampler

MIB = 1 << 20


def value(probe: Probe, figure: str) -> float:
    found = probe.read()[figure]
    assert isinstance(found, (int, float)), found
    return found


@pytest.fixture
def libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    return library


@pytest.fixture
def prefix() -> Iterator[str]:
    name = f"probes_{os.getpid()}_{uuid.uuid4().hex[:8]}_"
    yield name
    for entry in probes.SHM.glob(name + "*"):
        entry.unlink()


# Memory


@pytest.mark.parametrize(("count", "size"), [(1000, 4096), (1, 64 * MIB)], ids=["small", "by mmap"])
def test_heap_in_use_rises_and_falls(libc: ctypes.CDLL, count: int, size: int) -> None:
    probe = probes.heap_probe()
    before = value(probe, "heap_in_use")
    blocks = [libc.malloc(size) for _ in range(count)]
    with_blocks = value(probe, "heap_in_use")
    for block in blocks:
        libc.free(block)
    after = value(probe, "heap_in_use")
    assert with_blocks - before == pytest.approx(count * size, rel=0.05)
    assert abs(after - before) < count * size * 0.05


def test_heap_in_use_counts_what_other_threads_took(libc: ctypes.CDLL) -> None:
    probe = probes.heap_probe()
    before = value(probe, "heap_in_use")
    blocks: list[int] = []
    thread = threading.Thread(target=lambda: blocks.extend(libc.malloc(4096) for _ in range(1000)))
    thread.start()
    thread.join()
    assert value(probe, "heap_in_use") - before == pytest.approx(1000 * 4096, rel=0.1)
    for block in blocks:
        libc.free(block)


@pytest.mark.parametrize(
    ("owners", "reason"),
    [
        ({"malloc": "/lib/libc.so.6"}, "the C library has no mallinfo2"),
        ({"malloc": "/lib/libjemalloc.so.2", "mallinfo2": "/lib/libc.so.6"}, "malloc is that of /lib/libjemalloc.so.2"),
    ],
)
def test_heap_in_use_is_missing_and_not_zero(
    monkeypatch: pytest.MonkeyPatch, owners: dict[str, str], reason: str
) -> None:
    monkeypatch.setattr(probes, "owner", lambda symbol: owners.get(symbol, ""))
    found = probes.heap_probe().read()["heap_in_use"]
    assert isinstance(found, Missing)
    assert reason in found


OTHER_MALLOC = """
#include <string.h>
static _Alignas(16) char arena[1 << 30];
static size_t used;
void *malloc(size_t size) {
  char *block = arena + __atomic_fetch_add(&used, 16 + ((size + 15) & ~(size_t)15), __ATOMIC_RELAXED);
  *(size_t *)block = size;
  return block + 16;
}
void free(void *block) {}
void *calloc(size_t count, size_t size) { return malloc(count * size); }
void *realloc(void *old, size_t size) {
  void *block = malloc(size);
  size_t before = old ? *(size_t *)((char *)old - 16) : 0;
  return memcpy(block, old ? old : block, before < size ? before : size);
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_preloaded_allocator_is_seen(tmp_path: Path) -> None:
    source, library = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text(OTHER_MALLOC)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    code = "from harness.probes import heap_probe as h; v = h().read()['heap_in_use']; print(type(v).__name__, v)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("Missing malloc is that of ")
    # A program that is not position-independent has an address of its own for malloc, which hides the library's.
    assert "libother.so" in ran.stdout or sys.executable in ran.stdout


def test_owner_of_a_function_that_is_not_there() -> None:
    assert probes.owner("no_such_function_anywhere") == ""


def test_resident_memory_rises_and_falls() -> None:
    rss, pss = probes.rss_probe(), probes.pss_probe()
    before = value(rss, "rss"), value(pss, "pss")
    with mmap.mmap(-1, 64 * MIB) as block:
        block.write(b"x" * (64 * MIB))
        during = value(rss, "rss"), value(pss, "pss")
    after = value(rss, "rss"), value(pss, "pss")
    for figure in range(2):
        assert during[figure] - before[figure] > 60 * MIB
        assert during[figure] - after[figure] > 60 * MIB


def test_pss_is_missing_where_the_kernel_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "text", lambda _path: "")
    assert isinstance(probes.pss_probe().read()["pss"], Missing)


# Descriptors, threads, processes, shared memory


def test_descriptors() -> None:
    probe = probes.descriptors_probe()
    before = value(probe, "descriptors")
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(7)]
    assert value(probe, "descriptors") == before + 7
    for descriptor in opened:
        os.close(descriptor)
    assert value(probe, "descriptors") == before


def test_the_descriptor_used_to_look_is_not_counted() -> None:
    code = (
        "import os; from harness.probes import descriptors_probe as d; os.closerange(3, 256); "
        "print(d().read()['descriptors'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "3\n"


def test_threads() -> None:
    probe = probes.threads_probe()
    before = value(probe, "threads")
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert value(probe, "threads") == before + 3
    over.set()
    for thread in threads:
        thread.join()
    assert until(lambda: value(probe, "threads") == before, 5)


def test_children_and_grandchildren() -> None:
    probe = probes.children_probe()
    before = value(probe, "children")
    code = (
        "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0); "
        "print(flush=True); c.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        assert value(probe, "children") == before + 2
        child.stdin.write(b"\n")
        child.stdin.close()
        child.wait()
    assert value(probe, "children") == before


def test_a_zombie_is_no_child() -> None:
    probe = probes.children_probe()
    before, zombies = value(probe, "children"), value(probe, "zombies")
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})
    try:
        assert until(lambda: value(probe, "zombies") == zombies + 1, 5)
        found = probe.read()
        assert found["children"] == before
        names = found["zombie_names"]
        assert isinstance(names, list)
        assert f"{pid} (sh)" in names
    finally:
        os.waitpid(pid, 0)
    assert value(probe, "zombies") == zombies


def test_shared_memory_of_one_prefix(prefix: str) -> None:
    probe = probes.shm_probe(prefix)
    assert probe.read() == {"shm_entries": 0, "shm_bytes": 0, "shm_allocated_bytes": 0, "shm_names": []}
    (probes.SHM / f"{prefix}b").write_bytes(b"x" * 8192)
    with (probes.SHM / f"{prefix}a").open("wb") as sparse:
        sparse.truncate(MIB)
    (probes.SHM / f"other_{prefix}").write_bytes(b"x")
    try:
        assert probe.read() == {
            "shm_entries": 2,
            "shm_bytes": MIB + 8192,
            "shm_allocated_bytes": 8192,
            "shm_names": [f"{prefix}a", f"{prefix}b"],
        }
    finally:
        (probes.SHM / f"other_{prefix}").unlink()


def test_shared_memory_without_a_folder_or_a_prefix(tmp_path: Path) -> None:
    found = probes.shm_probe("p", tmp_path / "none").read()
    assert set(map(type, found.values())) == {Missing}
    with pytest.raises(ValueError, match="a prefix is needed"):
        probes.shm_probe("")


# GPU


class FakeNvml:
    """As much of pynvml as the probe uses: two devices."""

    class NVMLError(Exception):
        pass

    def __init__(self, processes: list[list[tuple[int, int | None]]], fails: str = "") -> None:
        self.processes = processes
        self.fails = fails
        self.begun = 0

    def _may_fail(self, call: str) -> None:
        if self.fails == call:
            raise self.NVMLError("Not Supported")

    def nvmlInit(self) -> None:
        self.begun += 1
        self._may_fail("init")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.processes)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:
        self._may_fail("memory")
        return SimpleNamespace(used=(device + 1) * 100 * MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[Any]:
        self._may_fail("processes")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes[device]]


ME, STRANGER = os.getpid(), 1


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    def install(processes: list[list[tuple[int, int | None]]], fails: str = "", container: bool = False) -> FakeNvml:
        fake = FakeNvml(processes, fails)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(probes, "_in_container", lambda: container)
        return fake

    return install


def test_gpu_memory_of_this_process_and_its_descendants(nvml: Callable[..., FakeNvml]) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stub:
        fake = nvml([[(ME, 5 * MIB), (stub.pid, 7 * MIB), (STRANGER, MIB)], [(STRANGER, MIB)]])
        probe = probes.gpu_probe()
        assert probe.read() == probe.read()
        assert probe.read() == {
            "gpu0_used_bytes": 100 * MIB,
            "gpu1_used_bytes": 200 * MIB,
            "gpu0_process_bytes": 12 * MIB,
            "gpu1_process_bytes": 0,
            "gpu_process_bytes": 12 * MIB,
        }
        assert fake.begun == 1


def test_gpu_memory_is_missing_where_it_is_not_attributed(nvml: Callable[..., FakeNvml]) -> None:
    nvml([[(ME, None)], []])
    found = probes.gpu_probe().read()
    assert found["gpu_process_bytes"] == Missing("NVML does not attribute memory to processes here")
    assert found["gpu0_used_bytes"] == 100 * MIB


def test_gpu_memory_is_missing_in_a_container_until_a_process_of_ours_was_listed(
    nvml: Callable[..., FakeNvml],
) -> None:
    fake = nvml([[(STRANGER, MIB)], []], container=True)
    probe = probes.gpu_probe()
    found = probe.read()["gpu_process_bytes"]
    assert isinstance(found, Missing)
    assert "container" in found
    fake.processes[0].append((ME, 5 * MIB))
    assert probe.read()["gpu_process_bytes"] == 5 * MIB
    fake.processes[0].pop()
    assert probe.read()["gpu_process_bytes"] == 0


@pytest.mark.parametrize(
    ("fails", "missing"),
    [
        ("init", {"gpu_process_bytes"}),
        ("memory", {"gpu0_used_bytes"}),
        ("processes", {"gpu_process_bytes"}),
    ],
)
def test_gpu_memory_without_a_driver_or_a_right(nvml: Callable[..., FakeNvml], fails: str, missing: set[str]) -> None:
    fake = nvml([[(ME, MIB)]], fails)
    probe = probes.gpu_probe()
    found = {figure: value for figure, value in probe.read().items() if isinstance(value, Missing)}
    assert set(found) == missing
    assert set(found.values()) == {"NVML: Not Supported"}
    probe.read()
    assert fake.begun == 1


def test_gpu_memory_without_a_device(nvml: Callable[..., FakeNvml]) -> None:
    nvml([])
    assert probes.gpu_probe().read() == {"gpu_process_bytes": Missing("NVML shows no device")}


@pytest.mark.gpu
def test_gpu_memory_of_a_real_device() -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() > 0
    except (pynvml.NVMLError, AssertionError):
        pytest.skip("no CUDA device")
    driver = ctypes.CDLL("libcuda.so.1")
    context, address = ctypes.c_void_p(), ctypes.c_uint64()
    assert driver.cuInit(0) == 0
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    try:
        assert driver.cuCtxPushCurrent_v2(context) == 0
        probe = probes.gpu_probe()
        before = probe.read()
        assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(256 * MIB)) == 0
        during = probe.read()
        assert driver.cuMemFree_v2(address) == 0
        after = probe.read()
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(0)
    for figure in ("gpu0_used_bytes", "gpu_process_bytes"):
        levels = [reading[figure] for reading in (before, during, after)]
        if figure == "gpu_process_bytes" and any(isinstance(level, Missing) for level in levels):
            continue  # in containers; the reason is tested above
        first, second, third = levels
        assert isinstance(first, int)
        assert isinstance(second, int)
        assert isinstance(third, int)
        assert second - first == pytest.approx(256 * MIB, abs=8 * MIB)
        assert abs(third - first) < 8 * MIB


# Metrics


EXPOSITION = """\
# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="b",version="1"} 3
nv_inference_request_success{version="1",model="a"} 2
# HELP nv_pinned_memory_pool_used_bytes Pinned memory pool used memory size, in bytes
# TYPE nv_pinned_memory_pool_used_bytes gauge
nv_pinned_memory_pool_used_bytes 4096
# HELP nv_energy_total Energy
# TYPE nv_energy_total counter
nv_energy_total 1.5
# HELP nv_cpu_utilization CPU
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization NaN
# HELP nv_model_ready Has no rows
# TYPE nv_model_ready gauge
"""


def test_metrics() -> None:
    assert probes.parse_metrics(EXPOSITION, ["nv_inference_request_success", "nv_pinned_memory_pool_used_bytes"]) == {
        'nv_inference_request_success{model="b",version="1"}': 3,
        'nv_inference_request_success{model="a",version="1"}': 2,
        "nv_pinned_memory_pool_used_bytes": 4096,
    }
    probe = probes.metrics_probe(lambda: EXPOSITION, ["nv_energy_total"])
    assert probe.read() == {"nv_energy_total": 1.5}
    assert probes.parse_metrics(EXPOSITION, ["nv_energy"]) == {"nv_energy_total": 1.5}
    assert probes.parse_metrics(EXPOSITION, []) == {}


def test_absent_metrics_are_missing() -> None:
    found = probes.parse_metrics(EXPOSITION, ["nv_cpu_utilization", "nv_model_ready", "nv_gpu"])
    assert set(found) == {"nv_cpu_utilization", "nv_model_ready", "nv_gpu"}
    assert set(map(type, found.values())) == {Missing}
    assert set(probes.parse_metrics("", ["nv_gpu"])) == {"nv_gpu"}


# Sampling


def broken() -> dict[str, Figure]:
    raise RuntimeError("out of order")


def lines(path: Path) -> list[Sample]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_sampler_writes_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with Sampler(probes.process_probes("nobody_"), path, 0.01) as sampler:
        assert until(lambda: path.exists() and len(path.read_text().splitlines()) > 3, 10)
        seen = len(lines(path))
        now = sampler.sample_now("settled", operations=4)
        assert sampler.cost.count >= seen
    written = lines(path)
    assert [sample for sample in written if sample.get("label") == "settled"] == [now]
    assert now["operations"] == 4
    assert {"heap_in_use", "rss", "pss", "descriptors", "threads", "children", "zombies", "shm_bytes"} <= set(now)
    times = [sample["time_ns"] for sample in written]
    assert times == sorted(times)
    assert times[-1] <= time.monotonic_ns()
    assert all(sample["cost_ns"] > 0 for sample in written)
    assert 0 < sampler.cost.mean_ns <= sampler.cost.max_ns == max(sample["cost_ns"] for sample in written)
    assert sampler.costs["pss"].count < sampler.costs["rss"].count == sampler.cost.count
    assert journal.read(path) == written


def test_no_probes_is_the_default() -> None:
    with Sampler() as sampler:
        assert set(sampler.sample_now("start")) == {"time_ns", "label", "cost_ns"}
    assert Sampler().cost.mean_ns == 0


def test_a_probe_that_raises_is_said_once_and_asked_no_more() -> None:
    asked = []

    def at_first() -> dict[str, Figure]:
        asked.append(True)
        return {"x": 1} if len(asked) == 1 else broken()

    written: list[Sample] = []
    good = Probe("good", lambda: {"y": 2})
    with Sampler([Probe("broken", broken), Probe("later", at_first), good], written.append, None) as sampler:
        samples = [sampler.sample_now(str(number)) for number in range(3)]
    errors = [(line["probe"], line["probe_error"]) for line in written if "probe_error" in line]
    assert errors == [("broken", "RuntimeError: out of order"), ("later", "RuntimeError: out of order")]
    assert len(asked) == 2
    assert [sample["y"] for sample in samples] == [2, 2, 2]
    assert [sample.get("x") for sample in samples] == [1, None, None]
    assert samples[0]["missing"] == {"broken": "the probe broken broke: RuntimeError: out of order"}
    assert samples[2]["missing"]["x"] == "the probe later broke: RuntimeError: out of order"


def test_missing_figures_are_told_with_the_reason() -> None:
    probe = Probe("p", lambda: {"a": 1, "b": Missing("no such thing here")})
    with Sampler([probe], interval=None) as sampler:
        sample = sampler.sample_now("x")
    assert sample["a"] == 1
    assert "b" not in sample
    assert sample["missing"] == {"b": "no such thing here"}


def test_rare_probes_are_read_at_every_quiescent_point() -> None:
    written: list[Sample] = []
    rare = Probe("rare", lambda: {"rare": 1}, every=3)
    with Sampler([rare], written.append, 0.002) as sampler:
        assert until(lambda: len(written) > 6, 10)
        assert sampler.sample_now("now")["rare"] == 1
    ticks = ["rare" in sample for sample in written if "label" not in sample]
    assert ticks == [number % 3 == 0 for number in range(len(ticks))]


def test_names_of_the_sampler_cannot_be_taken() -> None:
    with Sampler([Probe("p", lambda: {"cost_ns": 1})], interval=None) as sampler:
        assert "the sampler's own names" in sampler.sample_now("x")["missing"]["p"]
        with pytest.raises(ValueError, match="time_ns: the sampler's own names"):
            sampler.sample_now("x", time_ns=1)
    with pytest.raises(ValueError, match="two probes have one name"):
        Sampler([Probe("p", broken), Probe("p", broken)])
    with pytest.raises(ValueError, match="must be above 0"):
        Sampler(interval=0)


def test_the_end_comes_at_once_however_long_the_interval() -> None:
    began = time.monotonic()
    with Sampler(interval=60) as sampler:
        assert until(lambda: sampler.cost.count == 1, 5)
    assert time.monotonic() - began < 5
    assert sampler.cost.count == 1


def test_samples_from_many_threads_are_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with Sampler([probes.threads_probe(), probes.descriptors_probe()], path, 0.001) as sampler:
        threads = [threading.Thread(target=lambda: [sampler.sample_now("x") for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len([sample for sample in lines(path) if "label" in sample]) == 200


def test_a_disk_that_is_full_is_not_passed_over() -> None:
    def full(_sample: Sample) -> None:
        raise OSError("no space left")

    sampler = Sampler([], full, 0.001)
    with pytest.raises(OSError, match="no space left"), sampler:
        assert until(lambda: sampler.error is not None, 5)

    def body() -> None:
        with Sampler([], full, 0.001) as other:
            assert until(lambda: other.error is not None, 5)
            raise KeyError  # the body's own error comes first

    with pytest.raises(KeyError):
        body()
    with Sampler([], full, None) as asked, pytest.raises(OSError, match="no space left"):
        asked.sample_now("x")


def test_a_stuck_probe_does_not_take_the_run_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("harness.sampler._PATIENCE", 0.05)
    over = threading.Event()
    path = tmp_path / "samples.jsonl"

    def stuck() -> dict[str, Figure]:
        over.wait(60)
        return {}

    with Sampler([Probe("stuck", stuck)], path, 1) as sampler:
        assert until(lambda: sampler._reading == "stuck", 5)
        with pytest.raises(TimeoutError, match="the probe stuck is still reading"):
            sampler.sample_now("x")
    assert lines(path) == [{"probe": "stuck", "probe_error": "still reading after 0.05 s"}]
    over.set()
    monkeypatch.setattr("harness.sampler._PATIENCE", 10)
    sampler.stop()


def test_sampling_before_or_after_the_run_is_an_error(tmp_path: Path) -> None:
    sampler = Sampler([], tmp_path / "samples.jsonl", None)
    with pytest.raises(RuntimeError, match="not running"):
        sampler.sample_now("x")


def test_cost() -> None:
    cost = Cost().add(10).add(30)
    assert (cost.count, cost.mean_ns, cost.max_ns) == (2, 20, 30)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, harness.probes, harness.stats, harness.leaks; "
        "print({'numpy', 'scipy', 'pynvml', 'prometheus_client', 'psutil'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_sums_over_labels() -> None:
    text = '# TYPE a counter\na{model="x"} 2\na{model="y"} 3\n# TYPE b gauge\nb{m="x"} 1\nb{m="y"} NaN\n'
    found = probes.metrics_probe(lambda: text, ["a", "b", "c"], sums=True).read()
    assert found["a"] == 5
    assert isinstance(found["b"], probes.Missing)
    assert isinstance(found["c"], probes.Missing)
    assert probes.parse_metrics("", ["a"])["a"] == probes.Missing("the metrics are empty")
