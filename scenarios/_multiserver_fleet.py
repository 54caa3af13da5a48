"""multiserver's fleet: the library, repositories of a common and of unique models, and what the threads share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import model_repos
from harness.errors import UsageError
from harness.scenario import Context
from tritoncapi import (
    CPU,
    PINNED,
    Library,
    ModelControlMode,
    Place,
    RateLimitMode,
    Resource,
    Server,
    ServerOptions,
    cuda,
    gpu,
    log,
)

from . import _triton
from ._multiserver_faults import KILL_STUB, Strike

COMMON, AB, BROKEN = "simple1", "ab", "broken"


def unique(worker: int) -> str:
    """The model that only this worker's server has."""
    return f"simple{worker + 2}"


@dataclass
class Fleet:
    """The system: a loaded library, the repositories, and what the workers share."""

    library: Library
    options: Mapping[str, Any]
    repositories: list[Path]  # the common one, then one for each worker
    own: bool  # the repositories are ours
    backends: Path
    devices: int
    meeting: threading.Barrier  # of the first servers
    strike: Strike | None = None
    operations: int = 0
    orderly: bool = True
    lost: set[int] = field(default_factory=set)  # workers whose server would not stop
    alive: dict[int, Server] = field(default_factory=dict)  # by worker; may be asked while the lock is held
    lock: threading.Lock = field(default_factory=threading.Lock)

    def place(self, worker: int) -> Place:
        """Where this worker's tensors are."""
        memory = self.options["memory"]
        if memory == "gpu":
            return gpu(worker % self.devices)
        return PINNED if memory == "pinned" else CPU

    def server_options(self, worker: int, number: int) -> ServerOptions:
        """Options that differ from worker to worker."""
        limited = worker % 2 == 1
        return ServerOptions(
            model_repository=[self.repositories[0], self.repositories[worker + 1]],
            server_id=f"server-{worker}-{number}",
            model_control_mode=ModelControlMode.EXPLICIT,
            strict_readiness=worker % 3 != 0,
            pinned_memory_pool_bytes=(worker + 1) << 20,
            cuda_memory_pool_bytes=dict.fromkeys(range(self.devices), worker + 1 << 20),
            rate_limit_mode=RateLimitMode.EXEC_COUNT if limited else RateLimitMode.OFF,
            rate_limiter_resources=[Resource(f"resource{worker}", worker + 1)] if limited else (),
            model_load_threads=1 + worker % 4,
            exit_timeout=int(self.options["stop_timeout"]),
            backend_directory=self.backends,
            backend_config={"python": {"shm-region-prefix-name": self.options["shm_prefix"]}},
            gpu_metrics=False,  # its thread sleeps a second at a time, and so would the end of every server
            cpu_metrics=False,
        )

    def entered(self, worker: int, server: Server) -> None:
        """From now on this server may be asked for the metrics."""
        with self.lock:
            self.alive[worker] = server

    def left(self, worker: int) -> None:
        """From now on it may not: it is about to be stopped."""
        with self.lock:
            del self.alive[worker]

    def metrics(self) -> str:
        """Triton's metrics, which are the process's, from any living server; nothing when there is none."""
        with self.lock:  # no server is stopped while it answers
            return next((server.metrics() for server in self.alive.values()), "")


@contextmanager
def system(context: Context) -> Iterator[Fleet]:
    """Loads the library and makes the repositories."""
    options, journal, folder = context.options, context.journal, context.folder
    library = _triton.open_library(options["triton"], journal)
    # The log is the process's. Opening its file anew while other servers write to it would be a race of our own making.
    log.configure(file=folder / "triton.log", verbose=1 if options["verbose"] else 0, library=library)
    journal.phase("preparing the repositories")
    needed: dict[str, Place] = {}
    if options["memory"] != "system":
        needed[f"-m {options['memory']}"] = gpu(0) if options["memory"] == "gpu" else PINNED
    _triton.require_places(needed)
    if options["backend"] != "native" and not options["repositories"]:
        _triton.require_python_backend(library, folder)
    devices = cuda.device_count() if options["memory"] != "system" else 0
    threads = options["threads"]
    if options["repositories"]:
        repositories = [Path(path) for path in options["repositories"]]
        check_repositories(repositories, threads)
        for path in [model for repository in repositories for model in repository.iterdir()]:
            if _triton.is_python_model(path):
                _triton.require_python_backend(library, path)
    else:
        repositories = make_repositories(folder / "repositories", options, devices)
    strike = None
    if options["fault"] == KILL_STUB:
        worker = options["fault_thread"]
        strike = Strike(worker, repositories[worker + 1] / unique(worker))
    yield Fleet(
        library=library,
        options=options,
        repositories=repositories,
        own=not options["repositories"],
        backends=model_repos.backend_directory(folder / "backends", library.triton.backends),
        devices=devices,
        meeting=threading.Barrier(threads),
        strike=strike,
    )


def check_repositories(repositories: list[Path], threads: int) -> None:
    """Raises UsageError for repositories without the models that the threads need."""
    wanted = [COMMON, *(unique(worker) for worker in range(threads))]
    for path, model in zip(repositories, wanted, strict=True):
        if not (path / model).is_dir():
            raise UsageError(f"-r {path}: there is no model {model} in it (first {COMMON}, then simple2, simple3, ...)")


def make_repositories(folder: Path, options: Mapping[str, Any], devices: int) -> list[Path]:
    """A common repository with ``simple1``, and one for each thread: ``simple<n>``, ``ab``, ``broken``."""
    source = model_repos.folder("memalloc")
    made = []
    for worker in range(-1, options["threads"]):
        path = folder / ("common" if worker < 0 else f"unique{worker}")
        path.mkdir(parents=True)
        made.append(path)
        backend = options["backend"]
        if backend == "mixed":
            backend = "python" if worker % 2 else "native"
        # On the GPU the common model has an instance on each.
        on_gpu = options["memory"] == "gpu"
        device = worker % devices if on_gpu and worker >= 0 else None
        group = model_repos.instance_group("KIND_GPU" if on_gpu else "KIND_CPU", device=device)
        if backend == "python" and on_gpu:
            group += model_repos.parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no")
        planted = options["fault"] if worker >= 0 and options["fault_thread"] in (None, worker) else None
        if planted and planted != KILL_STUB:
            group += model_repos.parameter("fault", planted)
        model = source / f"add_sub_int32_{backend}"
        model_repos.copy_model(model, path, group, name=COMMON if worker < 0 else unique(worker))
        if worker >= 0:
            make_ab(source / "add_sub_int32_native", path, worker)
            extra = model_repos.instance_group() + model_repos.parameter("fault", "fail_instance_init")
            model_repos.copy_model(source / "add_sub_int32_native", path, extra, name=BROKEN)
    return made


def make_ab(source: Path, repository: Path, worker: int) -> None:
    """The model ``ab`` in the worker's version: one adds, the next gives its inputs back."""
    target = model_repos.copy_model(source, repository, model_repos.instance_group(), name=AB)
    (target / "1").rename(target / str(worker + 1))
    if worker % 2:
        config = target / "config.pbtxt"
        config.write_text(config.read_text().replace('"add_sub"', '"identity"'))
