"""perf's inputs: tensors for a model as its metadata asks for them, and what its answers are held against."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import UsageError
from tritoncapi import DataType
from tritoncapi.tensor import dtype_of

SETS = 8  # different inputs of a model, so that an old answer cannot pass for a new one
_MOST = 1 << 31  # elements of an input
Tensors = dict[str, npt.NDArray[Any]]


def input_sets(model: Mapping[str, Any], options: Mapping[str, Any], seed: int = 0) -> list[Tensors]:
    """The sets of inputs, each in the model's shapes with the batch in front; BF16 as float32, BYTES as objects.

    ``model``: ``name``, ``inputs`` (of the metadata), ``max_batch_size``. The same arguments make the same values in
    every process. Raises UsageError for what does not fit the model.
    """
    wanted = shapes(model, options)
    if options["input_data"]:
        return _from_file(Path(options["input_data"]), model, wanted)
    types = {tensor["name"]: DataType[tensor["datatype"]] for tensor in model["inputs"]}
    if options["zero"]:
        return [{name: _zeros(types[name], shape) for name, shape in wanted.items()}]
    random = np.random.default_rng(seed)
    return [{name: _random(types[name], shape, random) for name, shape in wanted.items()} for _ in range(SETS)]


def shapes(model: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Each input's full shape. Raises UsageError for a dimension that nobody says, or that the model does not take."""
    name, most, batch = model["name"], int(model["max_batch_size"]), options["batch"]
    if batch > max(1, most):
        takes = f"at most {most}" if most else "no batches (max_batch_size 0)"
        raise UsageError(f"--batch {batch}: model {name} takes {takes}")
    known = [tensor["name"] for tensor in model["inputs"]]
    for given in options["shapes"]:
        # With several models at once a shape may be another one's.
        if given not in known and len(options["models"]) == 1:
            raise UsageError(f"--shape {given}: model {name} has no such input; it has {', '.join(known) or 'none'}")
    found = {}
    for tensor in model["inputs"]:
        dims = [int(n) for n in tensor["shape"]]
        said = options["shapes"].get(tensor["name"])
        if said is not None:
            full = [batch, *said] if most else list(said)
            if len(full) != len(dims) or any(d not in (-1, n) for d, n in zip(dims, full, strict=True)):
                raise UsageError(
                    f"--shape {tensor['name']}:{'x'.join(map(str, said))}: model {name} has {dims} there"
                    + (" (the first is the batch, which --batch says)" if most else "")
                )
            dims = full
        elif most:
            dims[0] = batch
        if -1 in dims and not options["input_data"]:
            example = "x".join(str(max(n, 1)) for n in dims[bool(most) :])
            raise UsageError(
                f"model {name}: input {tensor['name']} has the dynamic shape {tensor['shape']}; "
                f"say which one to send: --shape {tensor['name']}:{example}"
            )
        if -1 not in dims and math.prod(dims) > _MOST:
            raise UsageError(f"input {tensor['name']} of model {name}: {math.prod(dims):,} elements are too many")
        found[tensor["name"]] = tuple(dims)
    return found


def _zeros(datatype: DataType, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if datatype == DataType.BYTES:
        return np.full(shape, b"0", dtype=object)
    return np.zeros(shape, dtype_of(datatype))


def _random(datatype: DataType, shape: tuple[int, ...], random: np.random.Generator) -> npt.NDArray[Any]:
    """Small whole numbers, shares between 0 and 1, truth values, or numbers as text: what few models choke on."""
    if datatype == DataType.BYTES:
        found = np.empty(shape, dtype=object)
        for index in np.ndindex(shape):
            found[index] = str(int(random.integers(0, 1000))).encode()
        return found
    dtype = dtype_of(datatype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    return (random.random(shape) if dtype.kind == "f" else random.integers(0, 60, shape)).astype(dtype)


def _from_file(path: Path, model: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> list[Tensors]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                sets: Sequence[Mapping[str, Any]] = [{name: file[name] for name in file.files}]
        else:
            loaded = json.loads(path.read_text())
            sets = loaded["data"] if isinstance(loaded, dict) and "data" in loaded else [loaded]
            if not isinstance(sets, list) or not sets or not all(isinstance(entry, dict) for entry in sets):
                raise ValueError("it holds neither {input: values} nor {\"data\": [{input: values}, ...]}")
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"--input-data {path}: {error}") from error
    return [_one_set(path, entry, model, wanted) for entry in sets]


def _one_set(
    path: Path, entry: Mapping[str, Any], model: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]
) -> Tensors:
    found: Tensors = {}
    for tensor in model["inputs"]:
        name, datatype = tensor["name"], DataType[tensor["datatype"]]
        if name not in entry:
            raise UsageError(f"--input-data {path}: there is no {name}, which model {model['name']} needs")
        values: Any = entry[name]
        shape: Sequence[int] | None = None
        if isinstance(values, dict):
            shape = values.get("shape")
            values = values.get("content")
        try:
            array = _as_array(values, datatype)
            if shape is not None:
                array = array.reshape([*wanted[name][: len(wanted[name]) - len(shape)], *shape])
            elif -1 not in wanted[name]:
                array = array.reshape(wanted[name])  # flat lists, as perf_analyzer has them, are fine too
        except (OverflowError, TypeError, ValueError) as error:
            text = f"{name} is not {datatype.name} of shape {list(wanted[name])}: {error}"
            raise UsageError(f"--input-data {path}: {text}") from error
        if len(array.shape) != len(wanted[name]) or any(
            d not in (-1, n) for d, n in zip(wanted[name], array.shape, strict=True)
        ):
            text = f"{name} has shape {list(array.shape)}, model {model['name']} takes {list(wanted[name])}"
            raise UsageError(f"--input-data {path}: {text}; say other dimensions with --shape")
        found[name] = array
    return found


def _as_array(values: Any, datatype: DataType) -> npt.NDArray[Any]:
    if datatype != DataType.BYTES:
        return np.ascontiguousarray(np.asarray(values).astype(dtype_of(datatype), casting="unsafe"))
    text = np.asarray(values)
    found = np.empty(text.shape, dtype=object)
    for index, value in np.ndenumerate(text):
        found[index] = value if isinstance(value, bytes) else str(value).encode()
    return found


class Validator:
    """Says what is wrong with an answer: ``add_sub`` knows the values, ``same`` takes the first of each input set."""

    def __init__(self, kind: str, sets: Mapping[str, Sequence[Tensors]]) -> None:
        self._kind = kind
        self._sets = sets
        self._first: dict[tuple[str, int], Tensors] = {}

    def wrong(self, model: str, number: int, outputs: Tensors) -> str:
        """What is wrong with the outputs for input set ``number`` of the model; nothing if they are right."""
        if self._kind == "add_sub":
            return _compare(_sums(self._sets[model][number]), outputs, "expected")
        first = self._first.setdefault((model, number), {name: np.array(array) for name, array in outputs.items()})
        return _compare(first, outputs, "the first answer to these inputs had")


def _sums(inputs: Tensors) -> Tensors:
    a, b = inputs["INPUT0"], inputs["INPUT1"]
    if a.dtype != object:
        return {"OUTPUT0": a + b, "OUTPUT1": a - b}
    numbers = [np.vectorize(int, otypes=[np.int64])(x) for x in (a, b)]
    text = np.vectorize(lambda n: str(n).encode(), otypes=[object])
    return {"OUTPUT0": text(numbers[0] + numbers[1]), "OUTPUT1": text(numbers[0] - numbers[1])}


def _compare(expected: Tensors, outputs: Tensors, whose: str) -> str:
    for name, wanted in expected.items():
        if name not in outputs:
            return f"{name} is missing"
        got = outputs[name]
        if got.shape != wanted.shape:
            return f"{name} has shape {list(got.shape)}, {whose} {list(wanted.shape)}"
        unequal = got != wanted
        if wanted.dtype.kind == "f":
            unequal &= ~(np.isnan(got) & np.isnan(wanted))
        if unequal.any():
            where = tuple(int(n) for n in np.argwhere(unequal)[0])
            return f"{name}{list(where)} is {got[where]}, {whose} {wanted[where]}"
    return ""
