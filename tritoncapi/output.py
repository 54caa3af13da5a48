"""Output: one tensor of a response, as a view of the buffer that the allocator gave, without a copy."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ._library import Library
from ._types import DataType, Error_p, MemoryType
from .dlpack import TensorView
from .memory import Buffer
from .place import CPU, Place
from .tensor import decode, view_at

if TYPE_CHECKING:
    from .response import InferenceResponse

_DATATYPES = {int(datatype): datatype for datatype in DataType}

Row = tuple[int, str, int, tuple[int, ...], int, int, int, int, "int | None"]
"""Of one output: index, name, datatype, shape, address, bytes, memory type, device, buffer's user pointer."""

_ROW = struct.Struct("PPPPQQqii8q40s")  # struct tc_output
_DIMS = 8
_ROOM = 8  # rows in the first try
_Rows = ctypes.c_char * (_ROOM * _ROW.size)
_names: dict[bytes, str] = {}  # decoded once
_NAMES = 1024


def read_rows(library: Library, pointer: Any) -> dict[str, Row]:
    """The outputs of a response by name (``TRITONSERVER_InferenceResponseOutput``)."""
    rows: Any = _Rows()
    room, count = _ROOM, ctypes.c_uint32()
    while True:
        error = library.native.outputs_read(pointer, rows, room, count)
        if error:
            raise library.api.take_error(ctypes.cast(error, Error_p), "TRITONSERVER_InferenceResponseOutput")
        if count.value <= room:
            break
        room = count.value
        rows = (ctypes.c_char * (room * _ROW.size))()
    found: dict[str, Row] = {}
    for index in range(count.value):
        row = _ROW.unpack_from(rows, index * _ROW.size)
        base, userp, shape_at, name_at, dims, nbytes, device, datatype, kind = row[:9]
        padded = row[-1]
        name = _names.get(padded) or _name(padded, name_at)
        shape = row[9 : 9 + dims] if dims <= _DIMS else tuple((ctypes.c_int64 * dims).from_address(shape_at))
        found[name] = index, name, datatype, shape, base, nbytes, kind, device, userp or None
    return found


def _name(padded: bytes, address: int) -> str:
    short = padded.rstrip(b"\0")
    if not short:  # too long for the row, or empty
        return ctypes.string_at(address).decode()
    if len(_names) >= _NAMES:
        _names.clear()
    name = _names[padded] = short.decode()
    return name


class Output:
    """One output tensor, where the allocator put it.

    ``name``, ``datatype``, ``shape`` (elements), ``nbytes``, ``place`` and ``address`` are what
    ``TRITONSERVER_InferenceResponseOutput`` reports. Views stay valid after the response is closed: the response lets
    its buffers go when the last view of them is dropped.
    """

    __slots__ = (
        *("__weakref__", "_lease", "_response", "address", "datatype", "index", "name", "nbytes", "place", "shape"),
        "userp",
    )

    def __init__(self, response: InferenceResponse, row: Row, lease: Lease) -> None:
        self.index, self.name, datatype, self.shape, self.address, self.nbytes, kind, device, userp = row
        self.datatype = _DATATYPES[datatype]
        self.place = CPU if kind == device == 0 else Place(MemoryType(kind), device)
        self.userp = userp
        self._response = response
        self._lease = lease

    @property
    def buffer(self) -> Buffer:
        """The raw bytes, where they are."""
        return Buffer.borrow(self.address, self.nbytes, self.place, self._lease)

    @property
    def tensor(self) -> TensorView:
        """The tensor where it is, with DLPack (and NumPy for host memory). ValueError if size and shape disagree."""
        return TensorView(self.buffer, self.datatype, self.shape)

    def numpy(self) -> npt.NDArray[Any]:
        """The values: a view for fixed-size elements in host memory, else a copy (GPU, BYTES, BF16 as float32)."""
        if self.place is CPU or self.place.on_host:
            found = view_at(self.address, self.nbytes, self.datatype, self.shape, self._lease)
            return found if found is not None else decode(self.buffer, self.datatype, self.shape)
        return decode(self.buffer.tobytes(), self.datatype, self.shape)

    def __dlpack__(self, **arguments: Any) -> object:
        return self.tensor.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()

    def label(self, class_index: int) -> str | None:
        """The model's label for a class of this output (``...ResponseOutputClassificationLabel``), if it has one."""
        response = self._response
        text = response._api.InferenceResponseOutputClassificationLabel(response.pointer, self.index, class_index)
        return text.decode() if text else None

    def __repr__(self) -> str:
        return f"<Output {self.name} {self.datatype.name}{list(self.shape)} {self.nbytes} bytes on {self.place}>"


class Lease:
    """What views of the outputs hold. The response is deleted when it is closed and the last holder is gone."""

    def __init__(self) -> None:
        self._delete: Callable[[Any], object] | None = None
        self._pointer: Any = None

    def end(self, delete: Callable[[Any], object], pointer: Any) -> None:
        """``delete(pointer)`` is what the last holder's end shall do."""
        self._pointer = pointer
        self._delete = delete

    def __del__(self) -> None:
        if self._delete is not None:
            self._delete(self._pointer)
