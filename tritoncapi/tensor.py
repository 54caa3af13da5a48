"""NumPy arrays to the bytes of a Triton tensor and back, for every datatype.

Plain types go both ways without a copy. BYTES elements are stored one after the other, each behind its length as a
4-byte little-endian number. BF16, which NumPy lacks, is made from floats and read back as float32.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import DataType
from .memory import Buffer, BytesLike, array_of

_PLAIN: dict[DataType, np.dtype[Any]] = {
    DataType.BOOL: np.dtype("?"),
    DataType.UINT8: np.dtype("u1"),
    DataType.UINT16: np.dtype("<u2"),
    DataType.UINT32: np.dtype("<u4"),
    DataType.UINT64: np.dtype("<u8"),
    DataType.INT8: np.dtype("i1"),
    DataType.INT16: np.dtype("<i2"),
    DataType.INT32: np.dtype("<i4"),
    DataType.INT64: np.dtype("<i8"),
    DataType.FP16: np.dtype("<f2"),
    DataType.FP32: np.dtype("<f4"),
    DataType.FP64: np.dtype("<f8"),
}
_BY_KIND = {(dtype.kind, dtype.itemsize): datatype for datatype, dtype in _PLAIN.items()}
_BYTES_KINDS = "OSUT"  # objects, NumPy's bytes and str, and the variable-width strings of NumPy 2
_BF16_STORAGE = np.dtype("<u2")
_LENGTH = struct.Struct("<I")
_MAX_LENGTH = 2**32 - 1


def dtype_of(datatype: DataType) -> np.dtype[Any]:
    """The dtype that ``decode`` returns: float32 for BF16, object (of bytes) for BYTES. ValueError for INVALID."""
    if datatype == DataType.BYTES:
        return np.dtype(object)
    if datatype == DataType.BF16:
        return _PLAIN[DataType.FP32]
    return _plain(datatype)


def storage_dtype(datatype: DataType) -> np.dtype[Any]:
    """The dtype of the raw elements: as ``dtype_of``, but uint16 for BF16, and ValueError for BYTES."""
    return _BF16_STORAGE if datatype == DataType.BF16 else _plain(datatype)


def datatype_of(source: npt.NDArray[Any] | npt.DTypeLike) -> DataType:
    """The datatype of an array or dtype: BYTES for object, bytes and str, BF16 for ml_dtypes' bfloat16.

    Raises TypeError where Triton has none, such as complex numbers, dates or long double.
    """
    dtype = source.dtype if isinstance(source, (np.ndarray, np.generic)) else np.dtype(source)
    found = _BY_KIND.get((dtype.kind, dtype.itemsize))
    if found is not None:
        return found
    if dtype.kind in _BYTES_KINDS:
        return DataType.BYTES
    if dtype.name == "bfloat16":
        return DataType.BF16
    raise TypeError(f"Triton has no datatype for NumPy's {dtype}")


def raw_address(array: object) -> int | None:
    """Where the tensor's bytes lie as they are: of a contiguous array of a plain type. None: it needs ``encode``."""
    if type(array) is not np.ndarray or not array.size:
        return None
    dtype = array.dtype
    if not array.flags.c_contiguous or not dtype.isnative or (dtype.kind, dtype.itemsize) not in _BY_KIND:
        return None
    address: int = array.__array_interface__["data"][0]
    return address


@functools.cache
def data_offset() -> int | None:
    """Where in an array object the address of its data lies: first after the object's head, as NumPy's C interface
    has it. None when this NumPy or Python is not so.
    """
    at = object.__basicsize__
    whole = np.arange(4, dtype=np.int32)
    for array in (whole, whole[2:]):
        if ctypes.c_void_p.from_address(id(array) + at).value != array.__array_interface__["data"][0]:
            return None
    return at


def plain_dtype(datatype: DataType, shape: tuple[int, ...], nbytes: int) -> np.dtype[Any] | None:
    """The dtype in which such a tensor can be seen where it is. None: it needs ``decode``."""
    dtype = _PLAIN.get(datatype)
    return dtype if dtype is not None and nbytes and math.prod(shape) * dtype.itemsize == nbytes else None


def view_at(address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: object) -> npt.NDArray[Any]:
    """The plain tensor at a host address as a NumPy array that keeps ``owner`` alive."""
    memory = _Memory.from_address(address)
    memory.owner = owner
    return np.ndarray(shape, dtype, memory)


class _Memory(ctypes.c_char * 2**62):  # type: ignore[misc]
    """The base of such an array: memory from an address on, whose end only the array knows. One class for all sizes:
    ctypes takes long to make one.
    """

    owner: object


def element_size(datatype: DataType) -> int:
    """Bytes of one element, 0 for BYTES and INVALID (``TRITONSERVER_DataTypeByteSize``)."""
    if datatype in (DataType.BYTES, DataType.INVALID):
        return 0
    return storage_dtype(datatype).itemsize


def byte_size(datatype: DataType, shape: Sequence[int]) -> int:
    """Bytes of a whole tensor. Raises ValueError for BYTES, whose size is its content's, and negative dimensions."""
    return storage_dtype(datatype).itemsize * _count(shape)


def encode(array: npt.NDArray[Any] | np.generic, datatype: DataType | None = None) -> npt.NDArray[np.uint8]:
    """The tensor's bytes in C order: 1-D uint8, over the array's own memory where that is contiguous already.

    ``datatype`` defaults to the array's. It converts only to BF16: from float16, float32 and float64 (to nearest,
    ties to even; NaN and infinity stay), from ml_dtypes' bfloat16, and from uint16 as the raw bits. BYTES elements are
    bytes, or str as UTF-8. Raises TypeError for any other pair of types and for an element that is neither.
    """
    if not isinstance(array, (np.ndarray, np.generic)):
        raise TypeError(f"a tensor is made from a NumPy array, not {type(array).__name__}")
    values = np.asarray(array)
    if datatype == DataType.BF16 and values.dtype.kind in "fu":
        return _raw(_to_bf16(values))
    own = datatype_of(values.dtype)
    if datatype is not None and datatype != own:
        raise TypeError(f"the array is {values.dtype} ({own.name}), the tensor {datatype.name}: convert it first")
    if own == DataType.BYTES:
        return _encode_bytes(values.ravel(order="C").tolist())
    if own != DataType.BF16:
        values = values.astype(_PLAIN[own], copy=False)  # only swaps bytes
    return _raw(values)


def decode(raw: Buffer | BytesLike | npt.NDArray[Any], datatype: DataType, shape: Sequence[int]) -> npt.NDArray[Any]:
    """The tensor in ``raw`` as an array of exactly ``shape`` and ``dtype_of(datatype)``.

    ``raw`` is host memory: a Buffer, bytes-like, or a C-contiguous array's bytes. Plain types are a view of it, which
    is read-only where ``raw`` is and keeps it alive; BF16 and BYTES are copies. Raises ValueError where ``raw`` and
    ``shape`` do not fit, or BYTES are cut off or left over, and says where.
    """
    flat = _flat(raw)
    if datatype == DataType.BYTES:
        return _decode_bytes(flat.tobytes(), shape)
    expected = byte_size(datatype, shape)
    if flat.size != expected:
        raise ValueError(f"{_title(datatype, shape)} has {expected} bytes, the buffer has {flat.size}")
    values = flat.view(storage_dtype(datatype))
    if datatype == DataType.BF16:
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.reshape(shape)


def _plain(datatype: DataType) -> np.dtype[Any]:
    try:
        return _PLAIN[datatype]
    except KeyError:
        raise ValueError(f"a {datatype.name} tensor has no elements of a fixed NumPy type") from None


def _count(shape: Sequence[int]) -> int:
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {list(shape)} has a negative dimension")
    return math.prod(int(size) for size in shape)


def _title(datatype: DataType, shape: Sequence[int]) -> str:
    return f"the {datatype.name} tensor of shape {[int(size) for size in shape]}"


def _raw(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _flat(raw: Buffer | BytesLike | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if isinstance(raw, Buffer):
        return raw.numpy()
    array = array_of(raw)
    if not array.flags.c_contiguous:
        raise ValueError(f"the raw array (shape {array.shape}, strides {array.strides}) is not C-contiguous")
    return array.reshape(-1).view(np.uint8)


def _to_bf16(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return values.astype(_BF16_STORAGE, copy=False)
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise TypeError(f"BF16 is made from float16, float32, float64 or raw uint16, not {values.dtype}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = np.ascontiguousarray(values, dtype=np.float32)
        bits = single.view(np.uint32)
        if values.dtype.itemsize == 8:
            # Two roundings in a row may miss the nearest value. Rounded to odd, float32 keeps what the second needs.
            away = np.abs(single) > np.abs(values)
            inexact = (single != values) & ~np.isnan(single)
            bits = np.where(inexact, (bits - away.astype(np.uint32)) | np.uint32(1), bits)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x0040)  # a payload of low bits only would turn into infinity
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    halves: npt.NDArray[np.uint16] = np.where(nan, quiet, rounded).astype(_BF16_STORAGE)
    return halves


def _encode_bytes(elements: Iterable[object]) -> npt.NDArray[np.uint8]:
    parts: list[bytes] = []
    for index, element in enumerate(elements):
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise TypeError(f"element {index} is {type(element).__name__}: a BYTES element is bytes or str")
        if len(data) > _MAX_LENGTH:
            raise ValueError(f"element {index} has {len(data)} bytes, more than its 4-byte length can say")
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return np.frombuffer(b"".join(parts), np.uint8) if parts else np.empty(0, np.uint8)


def _decode_bytes(data: bytes, shape: Sequence[int]) -> npt.NDArray[Any]:
    count, size = _count(shape), len(data)
    title = _title(DataType.BYTES, shape)
    elements: list[bytes] = []
    at = 0
    for index in range(count):
        start = at + _LENGTH.size
        if start > size:
            raise ValueError(f"{title} is cut off: element {index}'s length is at byte {at} of {size}")
        end = start + _LENGTH.unpack_from(data, at)[0]
        if end > size:
            raise ValueError(f"{title} is cut off: element {index} is bytes {start} to {end} of {size}")
        elements.append(data[start:end])
        at = end
    if at != size:
        raise ValueError(f"{title} has bytes left over: its {count} element(s) end at byte {at} of {size}")
    array = np.empty(count, dtype=object)
    array[:] = elements
    return array.reshape(shape)
