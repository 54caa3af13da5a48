"""One cell: its request, and everything that is wrong with the answer. The server and its models are there already."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tritoncapi import (
    CPU,
    PINNED,
    Allocation,
    AllocatorCounts,
    Buffer,
    DataType,
    InferenceRequest,
    InferenceResponse,
    InferTimeout,
    Output,
    Place,
    ResponseAllocator,
    Server,
    gpu,
)
from tritoncapi.allocator import Rule
from tritoncapi.errors import Error

from ._matrix_axes import Cell
from ._matrix_models import INPUTS, NATIVE, POLICY, asked_of, outputs_of
from ._matrix_tensors import (
    POISON,
    Raw,
    datatype_of_cell,
    difference,
    element_bytes,
    operands,
    shape_of,
    zeros_like,
)

_NOBODY = "nobody"  # a host policy that no instance has
_PIECES = 3  # at least, of an input in mixed chunks

Problem = tuple[str, str]
"""Which check (answer, values, placement, preferred, releases, log), and what it found."""


@dataclass
class Findings:
    """What was seen of a cell. ``stuck``: Triton still has the request."""

    problems: list[Problem] = field(default_factory=list)
    tensors: list[dict[str, Any]] = field(default_factory=list)
    stuck: bool = False
    ms: float = 0.0

    def add(self, check: str, text: str) -> None:
        """Adds a problem."""
        self.problems.append((check, text))


def run_cell(server: Server, cell: Cell, name: str, devices: int, patience: float) -> Findings:
    """Sends the cell's request, waits ``patience`` seconds at most, and looks at everything that came back."""
    found = Findings()
    inputs, expected = operands(cell, name)
    rules = _rules(cell, devices)
    allocator = ResponseAllocator(CPU, rules, poison=POISON)
    buffers: list[Buffer] = []
    request: InferenceRequest | None = None
    began = time.perf_counter()
    try:
        request = InferenceRequest(server, asked_of(cell))
        for tensor, raw in zip(INPUTS, inputs, strict=True):
            _give(request, tensor, cell, raw, devices, buffers)
        for tensor in outputs_of(cell):
            request.add_output(tensor)
        with request.infer(timeout=patience, allocator=allocator) as response:
            found.ms = (time.perf_counter() - began) * 1e3
            _look(response, cell, expected, rules, allocator.records, found)
    except InferTimeout as error:
        found.stuck = True
        found.add("answer", str(error))
    except Error as error:
        found.add("answer", f"{type(error).__name__}: {error}")
    finally:
        if request is not None:
            request.close()
        if found.stuck:
            allocator.release()  # Triton may still use it, and read the buffers
        else:
            for buffer in buffers:
                buffer.close()
    if not found.stuck:
        _releases(allocator.counts, found)
        if allocator.counts.live:
            allocator.release()
        else:
            allocator.close()
    return found


def _rules(cell: Cell, devices: int) -> dict[str, Rule]:
    """Where each output is asked for."""
    first, second = outputs_of(cell)
    out = cell["out"]
    if out == "preferred":
        return {first: "preferred", second: "preferred"}
    if out == "different":
        return {first: gpu(devices - 1), second: CPU}
    return {first: Place.parse(out), second: Place.parse(out)}


def _give(
    request: InferenceRequest, tensor: str, cell: Cell, raw: Raw, devices: int, buffers: list[Buffer]
) -> None:
    """Declares an input and appends its data, and zeros for those whom the host policy keeps from it."""
    request.add_input(tensor, datatype_of_cell(cell), shape_of(cell))

    def append(data: Raw, policy: str | None) -> None:
        for piece, place in _pieces(cell, data, devices):
            buffer = Buffer.wrap(piece) if place == CPU else Buffer.from_bytes(piece, place)
            buffers.append(buffer)
            request.append(tensor, buffer, host_policy=policy)

    policy = cell["policy"]
    if policy == "right":
        append(zeros_like(cell, raw), None)
        append(raw, POLICY)
        return
    append(raw, None)
    if policy == "fake":
        append(zeros_like(cell, raw), _NOBODY)
    elif policy == "wrong":
        append(zeros_like(cell, raw), _usual_policy(cell))


def _usual_policy(cell: Cell) -> str:
    """The policy that such an instance would have if it did not name one."""
    return cell["model"].replace(":", "_")


def _pieces(cell: Cell, raw: Raw, devices: int) -> Iterator[tuple[Raw, Place]]:
    if cell["in"] != "mixed":
        yield raw, Place.parse(cell["in"])
        return
    places = [CPU] if not devices else [CPU, PINNED, *(gpu(number) for number in range(devices))]
    count = max(_PIECES, len(places))
    cuts = [_cut(datatype_of_cell(cell), raw.size, number, count) for number in range(1, count)]
    for number, piece in enumerate(np.split(raw, cuts)):
        yield piece, places[number % len(places)]


def _cut(datatype: DataType, size: int, number: int, count: int) -> int:
    """Where to cut: within elements too, as a backend must not take a piece for a tensor.

    Triton wants the length before a text in one piece, so a text is cut behind it.
    """
    at = size * number // count
    if datatype == DataType.BYTES:
        at = at // element_bytes(datatype) * element_bytes(datatype) + 7
    return min(size, at | 1)


def _look(
    response: InferenceResponse,
    cell: Cell,
    expected: list[Raw],
    rules: dict[str, Rule],
    records: list[Allocation],
    found: Findings,
) -> None:
    """Compares every output with what it must be, and its places with each other."""
    by_tensor = {(record.tensor, record.address): record for record in records}
    datatype, shape = datatype_of_cell(cell), shape_of(cell)
    outputs = dict(response.outputs)
    for name, want in zip(outputs_of(cell), expected, strict=True):
        output = outputs.pop(name, None)
        if output is None:
            found.add("answer", f"the answer lacks {name}")
            continue
        if output.datatype != datatype:
            found.add("values", f"{name}: datatype {output.datatype.name}, expected {datatype.name}")
        if tuple(output.shape) != shape:
            found.add("values", f"{name}: shape {list(output.shape)}, expected {list(shape)}")
        record = by_tensor.get((name, output.address))
        found.tensors.append(_places(output, cell, str(rules[name]), record, found))
        if record is None:
            continue
        # The allocator knows where its buffer is; what the response says of it may be wrong.
        with Buffer.borrow(record.address, record.nbytes, record.actual, response) as buffer:
            got = buffer.numpy() if record.actual.on_host else np.frombuffer(buffer.tobytes(), np.uint8)
            wrong = difference(datatype, got, want)
        if wrong:
            found.add("values", f"{name}: {wrong}")
    for name in outputs:
        found.add("answer", f"the answer has {name}, which nobody asked for")
    _computed(response, cell, found)


def _places(output: Output, cell: Cell, asked: str, record: Allocation | None, found: Findings) -> dict[str, Any]:
    """Holds what was asked for, preferred, given and reported against each other, and writes it down."""
    name = output.name
    seen = {"name": name, "nbytes": output.nbytes, "asked": asked, "reported": str(output.place)}
    if record is None:
        found.add("placement", f"{name}: the response's buffer is none that the allocator gave")
        return seen
    preferred, actual = str(record.preferred), str(record.actual)
    if actual != (preferred if asked == "preferred" else asked):
        found.add("placement", f"{name}: asked for {asked} (preferred {preferred}), the allocator gave {actual}")
    if str(output.place) != actual:
        found.add("placement", f"{name}: the response says {output.place}, the allocator gave {actual}")
    if output.nbytes != record.nbytes:
        found.add("placement", f"{name}: the response says {output.nbytes} bytes, {record.nbytes} were asked for")
    if cell["backend"] == NATIVE and cell["ensemble"] == "no" and preferred != cell["model"]:
        found.add("preferred", f"{name}: the model on {cell['model']} asked for memory on {preferred}")
    return {**seen, "preferred": preferred, "actual": actual}


def _computed(response: InferenceResponse, cell: Cell, found: Findings) -> None:
    """For models that say where they computed, as the test backend does."""
    said = response.parameters.get("computed_on")
    wanted = "cpu" if cell["type"] == "bytes" else cell["model"]  # a GPU has no decimal text
    if said is not None and said != wanted:
        found.add("placement", f"the model on {cell['model']} computed on {said!s}")


def _releases(counts: AllocatorCounts, found: Findings) -> None:
    for wrong, text in (
        (counts.live, f"{counts.live} buffers ({counts.live_bytes} bytes) were not released with the response"),
        (counts.double_releases, f"{counts.double_releases} buffers were released twice"),
        (counts.mismatched, f"{counts.mismatched} releases named another buffer, size or place"),
        (counts.free_failures, f"{counts.free_failures} buffers could not be freed"),
    ):
        if wrong:
            found.add("releases", text)
