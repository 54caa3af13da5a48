"""memalloc's tensors: what goes in, what must come out, and what did, as plain data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tritoncapi import DataType
from tritoncapi.errors import Error

POISON = 0xA5
_SHOWN = 16  # elements of a tensor that the journal keeps


def operands(number: int, datatype: DataType, shape: tuple[int, ...]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Two inputs that differ from round to round, so that an old answer cannot pass for a new one."""
    count = int(np.prod(shape))
    first = (np.arange(count) + 3 + 100 * number).reshape(shape)
    second = np.full(shape, 1 + number)
    return as_type(first, datatype), as_type(second, datatype)


def as_type(values: npt.NDArray[Any], datatype: DataType) -> npt.NDArray[Any]:
    """Integers as the model's datatype; BYTES are decimal text."""
    if datatype == DataType.BYTES:
        text = np.empty(values.shape, dtype=object)
        for index, value in np.ndenumerate(values):
            text[index] = str(int(value)).encode()
        return text
    return values.astype(np.float32 if datatype == DataType.FP32 else np.int32)


def numbers(values: npt.NDArray[Any]) -> list[Any]:
    """A tensor's elements as numbers; what is no number stays text."""
    found: list[Any] = []
    for value in values.flat:
        if isinstance(value, bytes):
            try:
                found.append(int(value))
            except ValueError:
                found.append(value.decode(errors="replace"))
        else:
            found.append(value.item())
    return found


def note_output(output: Any, expected: npt.NDArray[Any] | None) -> dict[str, Any]:
    """One output tensor as plain data."""
    note: dict[str, Any] = {
        "name": output.name,
        "datatype": output.datatype.name,
        "shape": list(output.shape),
        "nbytes": output.nbytes,
        "reported": str(output.place),
        "address": output.address,
    }
    try:
        raw = output.buffer.tobytes() if output.nbytes else b""
        note["unwritten"] = bool(raw) and set(raw) == {POISON}
        note["zeros"] = bool(raw) and not any(raw)
        got = numbers(output.numpy())
    except (Error, ValueError) as error:
        note["unreadable"] = str(error)
        return note
    if expected is not None:
        want = numbers(expected)
        wrong = [i for i, (x, y) in enumerate(zip(want, got, strict=False)) if x != y]
        note |= {
            "wrong": len(wrong) + abs(len(want) - len(got)),
            "count": len(want),
            "expected_shape": list(expected.shape),
            "first_wrong": {"index": wrong[0], "expected": want[wrong[0]], "got": got[wrong[0]]} if wrong else None,
            "all_zero": all(value == 0 for value in got),
        }
    note["values"] = got[:_SHOWN]
    return note
