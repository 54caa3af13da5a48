"""multiserver's child: repositories of a common and of unique models, and one life cycle of a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import model_repos
from harness.errors import UsageError
from harness.scenario import Context, Operation, Outcome
from tritoncapi import (
    CPU,
    PINNED,
    Buffer,
    DataType,
    Library,
    ModelControlMode,
    Place,
    RateLimitMode,
    Resource,
    ResponseAllocator,
    Server,
    ServerOptions,
    StopTimeout,
    TensorView,
    cuda,
    gpu,
    log,
)
from tritoncapi.errors import Error, NotFoundError, TritonError, UnavailableError

from . import _triton

COMMON, AB, BROKEN = "simple1", "ab", "broken"
INFERENCES = 3  # of each model in a life cycle
_SHAPE = (1, 16)
_MEETING = 60.0  # seconds for all first servers to be alive
_LAG = 2.0  # seconds that statistics may lag behind responses
_ANSWER = 30.0  # seconds for one inference


def unique(worker: int) -> str:
    """The model that only this worker's server has."""
    return f"simple{worker + 2}"


@dataclass
class Fleet:
    """The system: a loaded library, the repositories, and what the workers share."""

    library: Library
    folder: Path
    options: Mapping[str, Any]
    repositories: list[Path]  # the common one, then one for each worker
    own: bool  # the repositories are ours
    backends: Path
    shm_prefix: str
    devices: int
    meeting: threading.Barrier
    folders: _triton.FolderWatch | None
    operations: int = 0
    orderly: bool = True
    lost: set[int] = field(default_factory=set)  # workers whose server would not stop
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
            backend_config={"python": {"shm-region-prefix-name": self.shm_prefix}},
            gpu_metrics=False,  # its thread sleeps a second at a time, and so would the end of every server
            cpu_metrics=False,
        )


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
    yield Fleet(
        library=library,
        folder=folder,
        options=options,
        repositories=repositories,
        own=not options["repositories"],
        backends=model_repos.backend_directory(folder / "backends", library.triton.backends),
        shm_prefix=options["shm_prefix"],
        devices=devices,
        meeting=threading.Barrier(threads),
        folders=_triton.FolderWatch(journal) if options["backend"] != "native" or options["repositories"] else None,
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
        if planted and backend == "native":
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


class Cycle:
    """One life of one server. ``problems`` are (what, sentence): each is a finding, the cycle goes on."""

    def __init__(self, fleet: Fleet, operation: Operation) -> None:
        self.fleet = fleet
        self.worker, self.number = operation.worker, operation.number
        self.problems: list[tuple[str, str]] = []
        self.alive: list[int] = []
        self.requests = 0

    def expect(self, what: str, met: bool, text: str) -> None:
        """Notes a problem unless it is met."""
        if not met:
            self.problems.append((what, text))

    def run(self) -> Outcome:
        """From ServerNew to ServerDelete."""
        began = time.monotonic_ns()
        guarded = not self.fleet.options["unguarded"]
        server = Server(self.fleet.server_options(self.worker, self.number), guarded=guarded)
        self.alive.append(time.monotonic_ns())
        if self.number == 0:
            self.fleet.meeting.wait(_MEETING)  # so that all servers have been alive at once, and no test of it is luck
        try:
            self.use(server)
        except (TritonError, Error) as error:
            self.problems.append(("life cycle", f"{type(error).__name__}: {error}"))
        finally:
            stopped = self.stop(server)
        ended = time.monotonic_ns()
        value = {"alive": [*self.alive, ended], "problems": self.problems, "requests": self.requests}
        value["seconds"] = (ended - began) / 1e9
        if not stopped:
            self.fleet.orderly = False
            self.fleet.lost.add(self.worker)
        return Outcome("fail" if self.problems else "ok", value)

    def use(self, server: Server) -> None:
        """Health, models, inference, isolation."""
        fleet, worker = self.fleet, self.worker
        mine, foreign = unique(worker), unique(worker + 1)
        self.expect("health", server.live, "the server is not live")
        self.expect("health", server.ready, "the server is not ready")
        server.load(COMMON)
        server.load(mine)
        if fleet.folders is not None:
            fleet.folders.look()
        for model in (COMMON, mine):
            self.expect("health", server.model_ready(model), f"{model} is loaded and not ready")
            self.infer(server, model)
        if fleet.own:
            self.versions(server)
            self.refuse(server, BROKEN, "a model whose instance fails")
        self.count(server, mine)
        self.foreign(server, foreign)
        for model in (COMMON, mine, *((AB,) if fleet.own else ())):
            server.unload(model)
        limit = fleet.options["stop_timeout"]
        self.expect("unload", server.wait_unloaded(timeout=limit), f"the models are not unloaded after {limit:g} s")
        self.refuse(server, foreign, "another server's model")

    def infer(self, server: Server, model: str) -> None:
        """Requests with values that no other worker or loop has; results checked, outputs where they were asked for."""
        place = self.fleet.place(self.worker)
        base = self.worker * 100_000 + self.number * 10
        first = np.arange(base, base + 16, dtype=np.int32).reshape(_SHAPE)
        second = np.full(_SHAPE, self.worker + 1, dtype=np.int32)
        with (
            Buffer.from_bytes(first, place) as one,
            Buffer.from_bytes(second, place) as two,
            ResponseAllocator(place) as allocator,
        ):
            inputs = {
                "INPUT0": TensorView(one, DataType.INT32, _SHAPE),
                "INPUT1": TensorView(two, DataType.INT32, _SHAPE),
            }
            with server.request(model, inputs) as request:
                for _ in range(INFERENCES):
                    with request.infer(allocator=allocator, timeout=_ANSWER) as response:
                        self.requests += 1
                        for name, wanted in (("OUTPUT0", first + second), ("OUTPUT1", first - second)):
                            output = response[name]
                            self.expect("values", np.array_equal(output.numpy(), wanted), f"{model}: {name} is wrong")
                            there = f"{model}: {name} is on {output.place}, not {place}"
                            self.expect("placement", output.place == place, there)
                        del output
            counts = allocator.counts
            self.expect("placement", counts.live == 0 and counts.releases == counts.allocations, "buffers not released")

    def versions(self, server: Server) -> None:
        """``ab`` answers in this server's version and way, whatever it is in the other servers."""
        server.load(AB)
        a = np.full(_SHAPE, self.number + 7, dtype=np.int32)
        b = np.full(_SHAPE, self.worker + 1, dtype=np.int32)
        with server.infer(AB, {"INPUT0": a, "INPUT1": b}, timeout=_ANSWER) as response:
            name, version = response.model
            due = self.worker + 1
            self.expect("versions", version == due, f"{name} answered in version {version}, not {due}")
            wanted = a if self.worker % 2 else a + b
            right = np.array_equal(response["OUTPUT0"].numpy(), wanted)
            self.expect("versions", right, f"{name} version {version} answered as another server's version does")

    def refuse(self, server: Server, model: str, what: str) -> None:
        """Loading this model must fail, and the server must go on."""
        try:
            server.load(model)
        except TritonError:
            self.expect("isolation", server.live, f"after loading {model} failed the server is not live")
        else:
            self.problems.append(("isolation", f"loading {model}, {what}, succeeded"))

    def foreign(self, server: Server, model: str) -> None:
        """Another server's model is not visible, not ready, not inferable here."""
        names = {entry.name for entry in server.index()}
        self.expect("isolation", model not in names, f"another server's model {model} is in the index")
        self.expect("isolation", not server.model_ready(model), f"another server's model {model} is ready here")
        try:
            server.request(model).close()
        except (NotFoundError, UnavailableError):
            return
        self.problems.append(("isolation", f"a request for another server's model {model} was accepted"))

    def count(self, server: Server, mine: str) -> None:
        """This server's statistics count this server's requests and no others."""
        for model in (COMMON, mine):
            deadline = time.monotonic() + _LAG
            counted = self.counted(server, model)
            while counted != INFERENCES and time.monotonic() < deadline:
                threading.Event().wait(0.002)
                counted = self.counted(server, model)
            self.expect("statistics", counted == INFERENCES, f"{model}: {counted} counted, {INFERENCES} made")
        # The metrics' registry is the process's; a row is told apart by its model, and this model is nobody else's.
        row = f'nv_inference_count{{model="{mine}",version="1"}} '
        values = [line[len(row) :] for line in server.metrics().splitlines() if line.startswith(row)]
        right = [float(value) for value in values] == [float(INFERENCES)]
        self.expect("statistics", right, f"{mine}: the metrics say {values or 'nothing'}, {INFERENCES} were made")

    @staticmethod
    def counted(server: Server, model: str) -> int:
        """Inferences that the statistics know of."""
        return sum(int(row["inference_count"]) for row in server.model_statistics(model))

    def stop(self, server: Server) -> bool:
        """Stops and deletes the server; False when it would not."""
        try:
            server.close(timeout=self.fleet.options["stop_timeout"])
        except StopTimeout as error:
            self.problems.append(("stop", str(error)))
            return False
        except TritonError as error:
            self.problems.append(("stop", str(error)))
            return False
        return True


def workload(fleet: Fleet, operation: Operation) -> Outcome:
    """One life cycle."""
    if operation.worker in fleet.lost:
        return Outcome("unknown", {}, "this thread's last server would not stop")
    try:
        return Cycle(fleet, operation).run()
    except TritonError as error:  # ServerNew itself
        return Outcome("fail", {"problems": [("life cycle", f"no server: {error}")]})
    finally:
        with fleet.lock:
            fleet.operations += 1
