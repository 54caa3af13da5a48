"""The matrix's axes, its cells and their names, and the filters that pick cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import UsageError

Cell = Mapping[str, str]
"""A value for every axis, in the axes' order."""

ADD_SUB = ("int32", "fp32", "bytes")
IDENTITY = ("fp16", "bf16", "int64", "bool", "fp64")
EXPORTED = ("onnxruntime", "pytorch", "tensorrt")
"""Backends whose models have to be generated first."""
GPU = "gpu"
"""In a filter: every GPU."""

VALUES: Mapping[str, Sequence[str]] = {
    "in": ("cpu", "pinned", GPU, "mixed"),
    "out": ("cpu", "pinned", GPU, "preferred", "different"),
    "model": ("cpu", GPU),
    "backend": ("native", "python", "dlpack", *EXPORTED),
    "type": (*ADD_SUB, *IDENTITY),
    "policy": ("none", "fake", "right", "wrong"),
    "ensemble": ("no", "yes"),
    "size": ("16", "0", "1MiB", "64MiB", "odd"),
    "batch": ("1", "max"),
}
"""The axes, and each one's values on any machine; ``gpu`` stands for gpu:0, gpu:1, ..."""
_DEVICE = re.compile(r"gpu:(0|[1-9]\d{0,2})")


def name_of(cell: Cell) -> str:
    """``in=cpu,out=cpu,...``: a filter that picks this cell alone."""
    return ",".join(f"{axis}={cell[axis]}" for axis in VALUES)


def axes_on(devices: int, backends: Iterable[str]) -> dict[str, list[str]]:
    """The axes on a machine with so many GPUs, for these backends.

    Where there is no GPU the axes still have gpu:0 and pinned: what they miss there is counted.
    """
    gpus = [f"gpu:{number}" for number in range(max(1, devices))]
    found = set(backends)
    return {
        axis: [
            word
            for value in values
            for word in (gpus if value == GPU else [value])
            if axis != "backend" or value in found
        ]
        for axis, values in VALUES.items()
    }


@dataclass(frozen=True)
class Filter:
    """Cells that have one of the values on every axis that is named."""

    values: Mapping[str, frozenset[str]]
    text: str = ""

    def fits(self, axis: str, value: str) -> bool:
        """Whether the filter lets a value pass on its axis."""
        wanted = self.values.get(axis)
        return wanted is None or value in wanted or (GPU in wanted and value.startswith("gpu:"))

    def matches(self, cell: Cell) -> bool:
        """Whether the cell is one of them; one with axes left open is if all are that the filter names."""
        return all(axis in cell and self.fits(axis, cell[axis]) for axis in self.values)

    def is_one_cell(self) -> bool:
        """Whether it names one cell."""
        return set(self.values) == set(VALUES) and all(
            len(words) == 1 and GPU not in words for words in self.values.values()
        )


def read_filter(text: str, where: str = "--only") -> Filter:
    """Reads ``axis=value,value,axis=value``: a comma separates values, and a word with ``=`` begins the next axis.

    Raises UsageError for what is no filter; ``where`` is the option's name.
    """
    found: dict[str, set[str]] = {}
    axis = ""
    for word in text.split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        if equals:
            axis = key.lower()
            if axis not in VALUES:
                raise UsageError(f"{where} {text!r}: there is no axis {key!r}; the axes are {', '.join(VALUES)}")
        elif not axis:
            raise UsageError(f"{where} {text!r}: write axis=value,value,axis=value; the axes are {', '.join(VALUES)}")
        found.setdefault(axis, set()).add(_value(axis, value if equals else key, f"{where} {text!r}"))
    return Filter({key: frozenset(values) for key, values in found.items()}, text)


def _value(axis: str, word: str, where: str) -> str:
    known = {value.lower(): value for value in VALUES[axis]}
    value = known.get(word.lower())
    if value is not None:
        return value
    if GPU in VALUES[axis] and _DEVICE.fullmatch(word.lower()):
        return word.lower()
    names = ", ".join("gpu:N, gpu" if value == GPU else value for value in VALUES[axis])
    raise UsageError(f"{where}: {axis} has no value {word!r}; it has {names}")


@dataclass(frozen=True)
class Reason:
    """Cells that are left out, and why."""

    cells: Filter
    why: str


def reason(cells: str, why: str) -> Reason:
    """A reason, with its cells as a filter's text."""
    return Reason(read_filter(cells), why)
