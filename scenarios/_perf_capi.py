"""perf through the C API: a server in this process, loaded by tritoncapi.Traffic."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.journal import Journal
from tritoncapi import (
    Buffer,
    DataType,
    InferenceResponse,
    Library,
    Place,
    ResponseAllocator,
    Sample,
    Server,
    Target,
    TensorView,
    Traffic,
    TrafficReport,
)
from tritoncapi.errors import Error
from tritoncapi.tensor import encode

from . import _triton
from ._perf_inputs import Tensors, Validator, input_sets
from ._perf_measure import Extent, ModelTotals, Totals, add_up
from ._perf_models import Prepared, describe, prepare, validation
from ._perf_plan import Step
from ._perf_windows import Slice


class CApiBench:
    """A server in this process and what its requests are made of."""

    def __init__(self, options: Mapping[str, Any], prepared: Prepared, server: Server) -> None:
        self.options = options
        self.prepared = prepared
        self.server = server
        self.sets: dict[str, list[Tensors]] = {}
        self.tensors: dict[str, list[dict[str, TensorView]]] = {}
        self.allocator: ResponseAllocator | None = None  # None: on the CPU, without records
        self.validator: Validator | None = None
        self.lost = False
        self.strays = server.library.native.slot_strays()
        self.orderly = True
        self.current: CApiLoad | None = None
        self.settings: dict[str, Any] = {}
        if options["priority"]:
            self.settings["priority"] = options["priority"]
        if options["request_timeout"]:
            self.settings["timeout_us"] = round(options["request_timeout"] * 1e6)

    def models(self, side: str) -> list[str]:
        """The names of a side's models."""
        return [name for name, _ in self.prepared.sides[side]]

    def load(self, step: Step, extent: Extent) -> CApiLoad:
        """Traffic that has not begun."""
        self.current = CApiLoad(self, step, extent)
        return self.current

    def requests(self) -> int:
        """How many ended in the load that is measured, as of the last look at it; from any thread."""
        return self.current.codes()[0] if self.current is not None else 0

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's, all versions added."""
        return add_up(self.server.model_statistics(model))

    def processes(self) -> tuple[list[int], list[int]]:
        """This one serves and sends."""
        return [os.getpid()], []

    def prepare_inputs(self, stack: ExitStack, journal: Journal) -> None:
        """Makes the inputs where they are to be, once, and the allocator of the outputs. Raises UsageError."""
        options = self.options
        place = Place.parse(options["input"])
        for number, name in enumerate(self.prepared.names):
            model = describe(self.server.model_metadata(name), self.server.model_config(name))
            journal.write("model", **model)
            types = {tensor["name"]: DataType[tensor["datatype"]] for tensor in model["inputs"]}
            self.sets[name] = input_sets(model, options, number)
            self.tensors[name] = [
                {
                    tensor: TensorView(_placed(array, types[tensor], place, stack), types[tensor], array.shape)
                    for tensor, array in entry.items()
                }
                for entry in self.sets[name]
            ]
        if options["output"] != "cpu":
            rule = "preferred" if options["output"] == "preferred" else Place.parse(options["output"])
            allocator = ResponseAllocator(rule, keep_records=False, reuse=True)  # type: ignore[arg-type]
            self.allocator = stack.enter_context(allocator)
        kind = validation(options)
        self.validator = Validator(kind, self.sets) if kind else None

    def check(self, response: InferenceResponse, sample: Sample) -> None:
        """Raises ValueError for a wrong answer."""
        assert self.validator is not None
        model = sample.target.model
        number = next(i for i, entry in enumerate(self.tensors[model]) if entry is sample.inputs)
        response.raise_for_error()
        text = self.validator.wrong(model, number, {output.name: output.numpy() for output in response})
        if text:
            raise ValueError(text)


def _placed(array: npt.NDArray[Any], datatype: DataType, place: Place, stack: ExitStack) -> Buffer:
    raw = np.ascontiguousarray(encode(array, datatype))
    return stack.enter_context(Buffer.from_bytes(raw, place))


class CApiLoad:
    """Traffic as perf's measurement takes it: slices by the difference of two looks at the histogram."""

    def __init__(self, bench: CApiBench, step: Step, extent: Extent) -> None:
        self._bench = bench
        options = bench.options
        targets = [
            Target(
                name,
                bench.tensors[name],
                weight=weight,
                settings=bench.settings,
                sequence_length=options["sequence_length"],
                cancel_rate=options["cancel_rate"],
                allocator=bench.allocator,
            )
            for name, weight in bench.prepared.sides[step.side]
        ]
        check = bench.check if extent.check and bench.validator is not None else None
        self._traffic = Traffic(
            bench.server,
            targets,
            concurrency=step.point.concurrency,
            threads=min(options["threads"], step.point.concurrency),
            rate=step.point.rate,
            poisson=options["poisson"],
            seed=options["seed"] + step.number,
            requests=extent.requests,
            duration=extent.seconds,
            check=check,
            check_every=options["validate_every"],
            patience=options["patience"],
        )
        self._rated = step.point.rate is not None
        self._began = self._last = 0
        self._seen: npt.NDArray[np.uint64] | None = None
        self._errors = 0
        self._total = 0.0
        self._report: TrafficReport | None = None

    def start(self) -> None:
        """Begins."""
        self._began = self._last = time.monotonic_ns()
        self._traffic.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits, and checks what was picked meanwhile."""
        return self._traffic.wait(timeout)

    def stop(self) -> None:
        """Begins nothing more."""
        self._traffic.stop()

    def take(self) -> Iterable[Slice]:
        """What ended since the last call, as one slice."""
        now = time.monotonic_ns()
        self._report = report = self._traffic.report
        latency, counts = report.latency, report.counts
        middles, buckets = latency.arrays()
        total = latency.mean * latency.count
        new = buckets if self._seen is None else buckets - self._seen
        errors = counts.errors - self._errors
        start, seconds = (self._last - self._began) / 1e9, (now - self._last) / 1e9
        self._seen, self._errors, self._last = buckets, counts.errors, now
        last, self._total = self._total, total
        return [slice_of(start, seconds, errors, total - last, middles, new)]

    def codes(self) -> tuple[int, Mapping[str, int]]:
        """As of the last look."""
        report = self._report
        if report is None:
            return 0, {}
        return report.counts.completed, {code.name: count for code, count in report.counts.codes.items()}

    def totals(self) -> Totals:
        """Everything."""
        report = self._traffic.report
        counts = report.counts
        self._bench.lost |= counts.lost > 0
        return Totals(
            ending=report.ending.name.lower(),
            elapsed=report.elapsed,
            completed=counts.completed,
            codes={code.name: count for code, count in counts.codes.items()},
            messages={code.name: text for code, text in report.messages.items()},
            latency=report.latency,
            naive=report.total.naive if self._rated else None,
            intervals=report.intervals,
            models=[
                ModelTotals(
                    target.model,
                    target.counts.completed,
                    target.counts.errors,
                    target.counts.submitted,
                    target.latency,
                )
                for target in report.targets
            ],
            validated=report.validated,
            wrong=report.wrong,
            wrong_texts=report.wrong_texts,
            skipped=counts.skipped,
            refused=counts.refused,
            cancels=counts.cancels,
            sequences=counts.sequences,
            unsent=counts.unsent,
            lost=counts.lost,
        )

    def close(self) -> None:
        """Cancels what is out and deletes the requests."""
        self._traffic.close()


def slice_of(
    start_s: float,
    seconds: float,
    errors: int,
    total_ns: float,
    middles: npt.NDArray[np.uint64],
    counts: npt.NDArray[np.uint64],
) -> Slice:
    """A slice from the counts of a histogram's buckets and the sum of their latencies."""
    ranks = np.cumsum(counts)
    good = int(ranks[-1])

    def at(percent: float) -> float:
        return float(middles[np.searchsorted(ranks, np.ceil(good * percent / 100))]) / 1000 if good else 0.0

    mean = total_ns / good / 1000 if good else 0.0
    return Slice(start_s, seconds, good + errors, errors, mean, at(50), at(95), at(99))


@contextmanager
def serving(
    options: Mapping[str, Any], side: str, library: Library, folder: Path, journal: Journal
) -> Iterator[CApiBench]:
    """A server with a side's models loaded (side AB: both sides'), and their inputs. Stops it at the end.

    Raises UsageError, LacksError, and what Triton says of the server or a model (TritonError).
    """
    places = {"the input (--input)": options["input"], "the output (--output)": options["output"]}
    needed = {what: Place.parse(place) for what, place in places.items() if place != "preferred"}
    _triton.require_places(needed)
    prepared = prepare(options, side, folder)
    for name in prepared.names:
        if _triton.is_python_model(prepared.repository / name):
            _triton.require_python_backend(library, prepared.repository / name)
    journal.phase("starting the server")
    settings = _triton.server_options(
        folder,
        library,
        options["shm_prefix"],
        model_repository=prepared.repository,
        log_verbose=1 if options["verbose"] else 0,
    )
    with ExitStack() as stack:
        server = Server(settings)
        bench = CApiBench(options, prepared, server)
        try:
            for name in prepared.names:
                journal.phase(f"loading the model {name}")
                server.load(name)
            bench.prepare_inputs(stack, journal)
            yield bench
        finally:
            journal.phase("stopping the server")
            bench.orderly = _stop(bench, options, journal)
            if not bench.orderly:
                stack.pop_all()  # Triton may still use it; the process ends at once


def _stop(bench: CApiBench, options: Mapping[str, Any], journal: Journal) -> bool:
    began = time.monotonic()
    journal.write("strays", count=bench.server.library.native.slot_strays() - bench.strays)
    text = "Triton never gave requests back" if bench.lost else ""
    try:
        if not bench.lost:
            bench.server.close(timeout=max(2.0, options["patience"]))
    except Error as error:
        text = str(error)
    journal.write("stop", text=text, seconds=time.monotonic() - began)
    if text:
        journal.ask_for_stacks()
    return not text
