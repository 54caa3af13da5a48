"""Output: one tensor of a response, as a view of the buffer that the allocator gave, without a copy."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._library import Library
from ._types import DataType, MemoryType
from .dlpack import TensorView
from .memory import Buffer
from .place import CPU, Place
from .tensor import decode, plain_dtype, view_at

if TYPE_CHECKING:
    from .response import InferenceResponse

_DIMS = 8
_ROOM = 4  # rows in the first try
_KIND = struct.Struct(f"QQqii{_DIMS}q40s")
_ROW = struct.Struct(f"PPPP{_KIND.size}s")  # struct tc_output
_Rows = ctypes.c_char * (_ROOM * _ROW.size)
_KINDS = 1024  # remembered; the next one takes the place of all


class _Kind(NamedTuple):
    """What an output shares with that of other responses, and how NumPy sees it (None: it has to be decoded)."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    nbytes: int
    place: Place
    dtype: np.dtype[Any] | None


_kinds: dict[bytes, _Kind] = {}
Row = tuple[int, int, int, _Kind]
"""Of one output: index, address, buffer's user pointer, and the rest."""


def read_rows(library: Library, pointer: Any) -> dict[str, Row]:
    """The outputs of a response by name (``TRITONSERVER_InferenceResponseOutput``)."""
    rows: Any = _Rows()
    count = library.native.outputs_read(pointer, rows, _ROOM)
    if count > _ROOM:
        rows = (ctypes.c_char * (count * _ROW.size))()
        count = library.native.outputs_read(pointer, rows, count)
    if count < 0:  # whichever fails says why
        for index in range(library.api.InferenceResponseOutputCount(pointer)):
            library.api.InferenceResponseOutput(pointer, index)
    found: dict[str, Row] = {}
    for index in range(count):
        base, userp, shape_at, name_at, raw = _ROW.unpack_from(rows, index * _ROW.size)
        kind = _kinds.get(raw) or _decoded(raw, shape_at, name_at)
        found[kind.name] = index, base, userp, kind
    return found


def _decoded(raw: bytes, shape_at: int, name_at: int) -> _Kind:
    nbytes, dims, device, datatype, memory_type, *sizes, short_name = _KIND.unpack(raw)
    name = short_name.rstrip(b"\0") or ctypes.string_at(name_at)
    shape = tuple(sizes[:dims] if dims <= _DIMS else (ctypes.c_int64 * dims).from_address(shape_at))
    place = CPU if memory_type == device == 0 else Place(MemoryType(memory_type), device)
    known = DataType(datatype)
    dtype = plain_dtype(known, shape, nbytes) if place.on_host else None
    kind = _Kind(name.decode(), known, shape, nbytes, place, dtype)
    if short_name[:1] != b"\0" and dims <= _DIMS:
        if len(_kinds) >= _KINDS:
            _kinds.clear()
        _kinds[raw] = kind
    return kind


_LOOK = 4  # outputs
_ADDRESSES = struct.Struct(f"qQ{2 * _LOOK}Q")  # struct tc_look, up to the kinds
_Look = ctypes.c_char * (_ADDRESSES.size + _LOOK * _KIND.size)
Looked = tuple[dict[str, tuple[int, _Kind]], tuple[int, ...]]
"""Outputs of one response by name, and: count, version, then address and user pointer of each."""


class Look:
    """Outputs of responses to one request, read in the native call that brings the response.

    ``address`` is for that call. Of more than four outputs, or with long names, nothing is read.
    """

    __slots__ = ("_block", "_kinds", "_version", "address")

    def __init__(self) -> None:
        self._block = _Look()
        self.address = ctypes.addressof(self._block)
        self._version = 0
        self._kinds: dict[str, tuple[int, _Kind]] = {}

    def take(self) -> Looked:
        """What the native call has just read; before the next one."""
        found = _ADDRESSES.unpack_from(self._block)
        if found[1] != self._version:
            self._kinds = self._decoded(found[0])
            self._version = found[1]  # then: an interrupt in between has them decoded again
        return self._kinds, found

    def _decoded(self, count: int) -> dict[str, tuple[int, _Kind]]:
        block, size = self._block.raw, _KIND.size
        rows = [block[at : at + size] for at in range(_ADDRESSES.size, len(block), size)]
        kinds = [_kinds.get(raw) or _decoded(raw, 0, 0) for raw in rows[: max(0, count)]]
        return {kind.name: (index, kind) for index, kind in enumerate(kinds)}


def looked_at(looked: Looked, name: str) -> Row | None:
    """One output; None when it is not among them."""
    kinds, addresses = looked
    found = kinds.get(name)
    if found is None:
        return None
    index, kind = found
    return index, addresses[2 + 2 * index], addresses[3 + 2 * index], kind


class Output:
    """One output tensor, where the allocator put it.

    Its properties are what ``TRITONSERVER_InferenceResponseOutput`` reports. Views stay valid after the response is
    closed: the response lets its buffers go when the last view of them is dropped.
    """

    __slots__ = ("__weakref__", "_lease", "_response", "_row")

    def __init__(self, response: InferenceResponse, row: Row, lease: Lease) -> None:
        self._response = response
        self._row = row
        self._lease = lease

    @property
    def index(self) -> int:
        """Its number in the response."""
        return self._row[0]

    @property
    def address(self) -> int:
        """Where it begins; 0 for an output of zero bytes."""
        return self._row[1]

    @property
    def userp(self) -> int | None:
        """The buffer's user pointer, which the allocator gave."""
        return self._row[2] or None

    @property
    def name(self) -> str:
        """The output's name."""
        return self._row[3].name

    @property
    def datatype(self) -> DataType:
        """Of its elements."""
        return self._row[3].datatype

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements, batch dimension included."""
        return self._row[3].shape

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer that it fills."""
        return self._row[3].nbytes

    @property
    def place(self) -> Place:
        """Where it is."""
        return self._row[3].place

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
        _, address, _, kind = self._row
        if kind.dtype is not None:
            return view_at(address, kind.shape, kind.dtype, self._lease)
        if self.place.on_host:
            return decode(self.buffer, self.datatype, self.shape)
        return decode(self.buffer.tobytes(), self.datatype, self.shape)

    def __dlpack__(self, **arguments: Any) -> object:
        return self.tensor.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()

    def label(self, class_index: int) -> str | None:
        """The model's label for a class of this output (``...ResponseOutputClassificationLabel``), if it has one."""
        api, pointer = self._response._library.api, self._response.pointer
        text = api.InferenceResponseOutputClassificationLabel(pointer, self.index, class_index)
        return text.decode() if text else None

    def __repr__(self) -> str:
        return f"<Output {self.name} {self.datatype.name}{list(self.shape)} {self.nbytes} bytes on {self.place}>"


class Lease:
    """What views of the outputs hold. The response is deleted when it is closed and the last holder is gone.

    ``end``: once it is closed, what to call then, with which arguments, and what these need.
    """

    end: tuple[Callable[..., object], tuple[Any, ...], object] | None = None

    def __del__(self) -> None:
        end = self.end
        if end is not None:
            end[0](*end[1])
