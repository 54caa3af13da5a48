"""perf over HTTP and gRPC: a tritonserver on loopback, and client processes whose answers are counted here."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import model_repos
from harness.errors import UsageError
from harness.journal import Journal
from tritoncapi import Library, find
from tritoncapi.errors import LibraryError

from . import _triton
from ._perf_clients import CLIENT, ClientProcess, require_client
from ._perf_inputs import input_sets
from ._perf_measure import Extent, Totals, add_up
from ._perf_models import Prepared, describe, prepare, validation
from ._perf_plan import Step
from ._perf_run import SideDied
from ._perf_server import HOST, TritonServer, statistics
from ._perf_tally import Tally
from ._perf_windows import SLICES, Slice

_EXIT = 15  # seconds that the server waits for requests that are still out
_LEAD_NS = 20_000_000  # until the first request is due, so that all clients know of it
_LATE = 5.0  # seconds beyond the patience in which clients have to come back


class WireBench:
    """A tritonserver and its clients."""

    def __init__(self, options: Mapping[str, Any], prepared: Prepared, server: TritonServer) -> None:
        self.options = options
        self.prepared = prepared
        self.server = server
        self.clients: list[ClientProcess] = []

    def models(self, side: str) -> list[str]:
        """The names of a side's models."""
        return [name for name, _ in self.prepared.sides[side]]

    def load(self, step: Step, extent: Extent) -> WireLoad:
        """A load that has not begun."""
        return WireLoad(self, step, extent)

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's, all versions added."""
        return add_up(statistics(self.server, model))

    def processes(self) -> tuple[list[int], list[int]]:
        """The server, and the clients."""
        return [self.server.process.pid], [client.process.pid for client in self.clients]

    def start_clients(self, folder: Path, models: Sequence[Mapping[str, Any]], port: int) -> None:
        """Starts as many as the steps can use, and waits until they are ready."""
        most = max(point["concurrency"] for point in self.options["points"])
        setup = {
            "protocol": self.options["protocol"],
            "url": f"{HOST}:{port}",
            "options": dict(self.options),
            "models": list(models),
            "validation": validation(self.options),
        }
        for number in range(min(self.options["threads"], most)):
            self.clients.append(ClientProcess(folder, number, setup))
        for client in self.clients:
            client.started()

    def close(self) -> None:
        """Ends the clients."""
        for client in self.clients:
            client.close()


class WireLoad:
    """One load, spread over the client processes."""

    def __init__(self, bench: WireBench, step: Step, extent: Extent) -> None:
        self._bench = bench
        self._extent = extent
        self._step = step
        concurrency = step.point.concurrency
        self._clients = bench.clients[: min(len(bench.clients), concurrency)]
        self._running: dict[int, ClientProcess] = {}
        slice_ns = int(bench.options["window"] / SLICES * 1e9)
        self._tally = Tally(bench.models(step.side), step.point.rate is not None, slice_ns)
        self._told: dict[int, int] = {}
        self._stopped = False
        self._moved = 0.0

    def start(self) -> None:
        """Begins, in all clients at the same time."""
        step, extent, clients = self._step, self._extent, self._clients
        begin = time.monotonic_ns() + _LEAD_NS
        self._tally.begin(begin)
        self._moved = time.monotonic()
        for number, client in enumerate(clients):
            share = _share(step.point.concurrency, len(clients), number)
            plan = {
                "models": list(self._bench.prepared.sides[step.side]),
                "share": share,
                "index": number,
                "processes": len(clients),
                "rate": step.point.rate,
                "poisson": self._bench.options["poisson"],
                "seed": self._bench.options["seed"] * 1_000_003 + step.number * 1000 + number,
                "step": step.number + 1,
                "begin_ns": begin,
                "requests": None if extent.requests is None else _share(extent.requests, len(clients), number),
                "seconds": extent.seconds,
                "check": extent.check,
            }
            client.send({"run": plan})
            self._running[client.lines.descriptor] = client
            self._told[client.number] = begin

    def wait(self, timeout: float | None = None) -> bool:
        """Takes what the clients tell. True when all are done. Raises SideDied when the server or a client is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = self._bench.options["patience"] + _LATE
        while self._running:
            left = 0.5 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            ready, _, _ = select.select(list(self._running), [], [], min(left, 0.5))
            for descriptor in ready:
                self._hear(self._running[descriptor])
            if self._bench.server.process.poll() is not None:
                raise self._bench.server.died()
            if time.monotonic() - self._moved > patience:
                self._give_up()
        return True

    def _hear(self, client: ClientProcess) -> None:
        while (message := client.lines.next(0)) is not None:
            if "done" in message:
                self._tally.finish(message["done"])
                self._running.pop(client.lines.descriptor, None)
                self._told[client.number] = 2**63
                if message["done"]["failure"]:
                    text = f"client process {client.number} failed: {message['done']['failure']}"
                    raise SideDied(text, what=CLIENT)
                continue
            if message["rows"] or not message["out"]:  # at a low rate there may be nothing to wait for
                self._moved = time.monotonic()
            if message["rows"]:
                self._tally.add(message["rows"], message["codes"])
            self._told[client.number] = message["now"]
        if client.lines.ended:
            raise client.died()

    def _give_up(self) -> None:
        """Nothing came back for too long: the clients that still wait are ended, and what is out is lost."""
        for client in self._running.values():
            client.process.kill()
        raise SideDied(f"no answer for {self._bench.options['patience']:g} s", log=self._bench.server.last_lines())

    def stop(self) -> None:
        """Sends no more."""
        self._stopped = True
        for client in self._running.values():
            client.send({"stop": True})

    def take(self) -> Iterable[Slice]:
        """What ended since the last call, as far as all clients have told."""
        return self._tally.slices(min(self._told.values(), default=0), over=not self._running)

    def codes(self) -> tuple[int, Mapping[str, int]]:
        """So far."""
        return self._tally.completed, self._tally.codes

    def totals(self) -> Totals:
        """Everything."""
        why = "stopped" if self._stopped else "requests" if self._extent.requests else "duration"
        return self._tally.totals(why)

    def close(self) -> None:
        """Waits for what is out."""
        if not self._running or self._bench.server.process.poll() is not None:
            return
        with suppress(SideDied):
            self.stop()
            self.wait()


def _share(total: int, parts: int, number: int) -> int:
    return total // parts + (number < total % parts)


@contextmanager
def serving(
    options: Mapping[str, Any], side: str, library: Library, folder: Path, journal: Journal
) -> Iterator[WireBench]:
    """A server with a side's models (side AB: both sides'), and its clients. Stops all at the end.

    Raises UsageError, LacksError, SideDied.
    """
    require_client(options["protocol"])
    place = folder / f"side-{side}"
    place.mkdir()
    triton = library.triton
    if side == "B" and options["ab"]:
        try:
            triton = find(options["ab"])
        except LibraryError as error:
            raise UsageError(f"--ab: {error}") from error
    prepared = prepare(options, side, place)
    for name in prepared.names:
        if _triton.is_python_model(prepared.repository / name):
            _triton.require_python_backend(library, prepared.repository / name)
    journal.phase(f"starting tritonserver {side}")
    prefix = f"--backend-config=python,shm-region-prefix-name={options['shm_prefix']}"
    arguments = [f"--exit-timeout-secs={_EXIT}", prefix]
    server = TritonServer(
        side,
        triton,
        place,
        repository=prepared.repository,
        backends=model_repos.backend_directory(place / "backends", triton.backends),
        models=prepared.names,
        arguments=[*arguments, *(["--log-verbose=1"] if options["verbose"] else [])],
    )
    bench = WireBench(options, prepared, server)
    try:
        journal.write("tritonserver", side=side, pid=server.process.pid, http=server.http, grpc=server.grpc)
        models = []
        for number, name in enumerate(prepared.names):
            model = describe(server.model(name), server.model(name, "config"))
            if model["decoupled"]:
                raise UsageError(f"model {name} is decoupled: measure it with --protocol c-api")
            input_sets(model, options, number)  # what does not fit is said here, once
            journal.write("model", **model)
            models.append(model)
        journal.phase("starting the clients")
        bench.start_clients(place, models, server.grpc if options["protocol"] == "grpc" else server.http)
        yield bench
    finally:
        journal.phase(f"stopping tritonserver {side}")
        bench.close()
        gone = server.process.poll() is not None
        began = time.monotonic()
        problem = server.stop()
        if not gone:
            journal.write("stop", side=side, text=problem, seconds=time.monotonic() - began)
