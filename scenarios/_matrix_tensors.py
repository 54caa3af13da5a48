"""The matrix's tensors as raw bytes: what goes in, what must come out, and how what came out differs."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from tritoncapi import DataType
from tritoncapi.tensor import element_size, encode, storage_dtype

from ._matrix_axes import Cell
from ._matrix_models import MAX_BATCH, operation_of

Raw = npt.NDArray[np.uint8]
POISON = 0xA5
_DIGITS = 8
_LENGTH = 4
_TOTAL = {"1MiB": 1 << 20, "64MiB": 64 << 20}  # bytes of a tensor
_COUNT = {"16": 16, "0": 0, "odd": 1021}  # elements of a batch's item
_PERIOD = 65_521  # elements; a prime, so that a piece in another's place shows
_QUADS = np.array([list(f"{number:04d}".encode()) for number in range(10_000)], np.uint8)


def datatype_of_cell(cell: Cell) -> DataType:
    """The datatype of all tensors of the cell."""
    return DataType[cell["type"].upper()]


def element_bytes(datatype: DataType) -> int:
    """Bytes of one element; a text has eight digits behind its length."""
    return element_size(datatype) or _LENGTH + _DIGITS


def shape_of(cell: Cell) -> tuple[int, int]:
    """Batch and elements of an item."""
    batch = MAX_BATCH if cell["batch"] == "max" else 1
    size = cell["size"]
    if size in _COUNT:
        return batch, _COUNT[size]
    return batch, _TOTAL[size] // element_bytes(datatype_of_cell(cell)) // batch


def operands(cell: Cell, name: str) -> tuple[list[Raw], list[Raw]]:
    """Inputs and expected outputs. The values differ from cell to cell: an old answer cannot pass for a new one."""
    datatype = datatype_of_cell(cell)
    count = math.prod(shape_of(cell))
    seed = zlib.crc32(name.encode())
    if operation_of(cell["type"]) == "identity":
        patterns = [_pattern(datatype, min(count, _PERIOD), seed + number) for number in (0, 1)]
        inputs = [_repeated(each, count * element_bytes(datatype)) for each in patterns]
        return inputs, inputs
    # Sums and differences stay within what FP32 holds exactly, and what has eight digits.
    ramp = np.arange(min(count, _PERIOD), dtype=np.int64)
    left, right = 3_000_000 + (ramp + seed) % 4_000_003, 1 + (ramp * 7 + seed) % 1_000_003
    if datatype == DataType.BYTES:
        left, right = left + 50_000_000, right + 10_000_000
    values = (left, right, left + right, left - right)
    if datatype == DataType.BYTES:
        raw = [_decimal(each) for each in values]
    else:
        raw = [_bytes(each.astype(storage_dtype(datatype))) for each in values]
    raw = [_repeated(each, count * element_bytes(datatype)) for each in raw]
    return raw[:2], raw[2:]


def zeros_like(cell: Cell, raw: Raw) -> Raw:
    """As many bytes that stand for zeros, to be given to those who must not read them."""
    if datatype_of_cell(cell) == DataType.BYTES:
        return _repeated(_decimal(np.zeros(min(raw.size, 1), np.int64)), raw.size)
    return np.zeros_like(raw)


def _pattern(datatype: DataType, count: int, seed: int) -> Raw:
    ramp = np.arange(count, dtype=np.int64) + seed % 1_000_003
    if datatype == DataType.BOOL:
        return _bytes((ramp * 0x9E3779B1 >> 9) % 3 != 0)  # without a period, so that pieces differ
    if datatype == DataType.INT64:
        return _bytes(ramp * 0x1_0000_0007)
    if datatype == DataType.BF16:
        return _bytes((1 + ramp % 0x7000).astype(np.uint16))  # finite, and not zero
    if datatype == DataType.FP16:
        return _bytes((1 + ramp % 2047).astype(np.float16))
    return _bytes((1 + ramp) / 7)


def _repeated(raw: Raw, size: int) -> Raw:
    return raw if raw.size == size else np.resize(raw, size)


def _bytes(values: npt.NDArray[Any]) -> Raw:
    return encode(values) if values.size else np.empty(0, np.uint8)


def _decimal(values: npt.NDArray[np.int64]) -> Raw:
    """Numbers below 10 ** 8 as BYTES of eight digits each."""
    text = np.zeros((values.size, _LENGTH + _DIGITS), np.uint8)
    text[:, 0] = _DIGITS
    text[:, _LENGTH : _LENGTH + 4] = _QUADS[values // 10_000]
    text[:, _LENGTH + 4 :] = _QUADS[values % 10_000]
    return text.reshape(-1)


def difference(datatype: DataType, got: Raw, want: Raw) -> str:
    """What is wrong with an output's bytes, in words; nothing when they are those expected."""
    if got.size == want.size and _same(got, want):
        return ""
    if got.size and (got == POISON).all():
        return "the buffer was never written: it still holds the allocator's fill"
    if got.size != want.size:
        return f"{got.size} bytes, expected {want.size}"
    size = element_bytes(datatype)
    wrong = (got != want).reshape(-1, size).any(axis=1)
    first = int(wrong.argmax())
    if not got.any():
        return f"all {wrong.size} values are zero"
    return (
        f"{int(wrong.sum())} of {wrong.size} values are wrong; the first at [{first}]: "
        f"{_shown(datatype, got, first)} instead of {_shown(datatype, want, first)}"
    )


def _same(got: Raw, want: Raw) -> bool:
    whole = got.size // 8 * 8  # eight bytes at a time: what is compared leaves an array as large behind
    return np.array_equal(got[:whole].view(np.uint64), want[:whole].view(np.uint64)) and np.array_equal(
        got[whole:], want[whole:]
    )


def _shown(datatype: DataType, raw: Raw, index: int) -> str:
    size = element_bytes(datatype)
    piece = raw[index * size : (index + 1) * size]
    if datatype == DataType.BYTES:
        return piece[_LENGTH:].tobytes().decode(errors="replace")
    return str(piece.view(storage_dtype(datatype))[0])
