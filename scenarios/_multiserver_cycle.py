"""multiserver's workload: one life cycle of a server, and everything that is looked at in it."""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from harness.scenario import Operation, Outcome
from tritoncapi import Buffer, DataType, ResponseAllocator, Server, StopTimeout, TensorView
from tritoncapi.errors import Error, NotFoundError, TritonError, UnavailableError
from tritoncapi.output import Output

from ._multiserver_fleet import AB, BROKEN, COMMON, Fleet, unique

INFERENCES = 3  # of each model in a life cycle
_SHAPE = (1, 16)
_MEETING = 60.0  # seconds for all first servers to be alive
_LAG = 2.0  # seconds that statistics may lag behind responses
_ANSWER = 30.0  # seconds for one inference


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
        self.fleet.entered(self.worker, server)
        try:
            if self.number == 0:
                self.fleet.meeting.wait(_MEETING)  # all servers are alive at once here, and no test of it is luck
            self.use(server)
        except (TritonError, Error) as error:
            self.problems.append(("life cycle", f"{type(error).__name__}: {error}"))
        finally:
            self.fleet.left(self.worker)
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
        if fleet.strike is not None:
            fleet.strike.meet(worker, self.number)
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
                            self.compare(model, output, wanted)
                            there = f"{model}: {name} is on {output.place}, not {place}"
                            self.expect("placement", output.place == place, there)
                        del output
            counts = allocator.counts
            self.expect("placement", counts.live == 0 and counts.releases == counts.allocations, "buffers not released")

    def compare(self, model: str, output: Output, wanted: npt.NDArray[np.int32]) -> None:
        """Notes an output that is not the one that was wanted."""
        try:
            text = "" if np.array_equal(output.numpy(), wanted) else "is wrong"
        except ValueError as error:  # a shape that is not that of its bytes
            text = f"cannot be read: {error}"
        self.expect("values", not text, f"{model}: {output.name} {text}")

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
