"""Buffer: raw bytes in CPU, pinned or GPU memory, allocated here or borrowed.

``live_count`` and ``live_bytes`` tell what is allocated and not freed yet, for leak checks.
"""

from __future__ import annotations

import math
import sys
import threading
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from . import cuda
from ._types import MemoryType
from .errors import ClosedError
from .place import CPU, Place

BytesLike = bytes | bytearray | memoryview

_ALIGNMENT = 64
# Only single set operations touch it: those are atomic, also where a finalizer interrupts its own thread.
_live: set[_Block] = set()


def live_count() -> int:
    """Allocations of this module (zero-byte ones too) that are not freed; borrowed memory does not count."""
    return len(_live)


def live_bytes() -> dict[Place, int]:
    """Their bytes by place; a place without any is left out."""
    totals: dict[Place, int] = {}
    for block in list(_live):
        totals[block.place] = totals.get(block.place, 0) + block.nbytes
    return {place: nbytes for place, nbytes in totals.items() if nbytes}


class Buffer:
    """``nbytes`` raw bytes at ``place``: from ``empty``, ``zeros``, ``from_bytes``, ``wrap``, ``borrow`` or ``view``.

    Close it once, by ``with`` or ``close()``; a second ``close()`` does nothing, any other use after it raises
    ClosedError. The memory itself is freed, or a borrowed owner let go, when the buffer, its sub-buffers, and the
    NumPy arrays and DLPack capsules over it are all gone: ``close()`` never pulls memory from under one of them.

    A pinned or GPU buffer that was allocated here and is dropped unclosed warns (ResourceWarning), and is freed.
    """

    _hold: _Hold | None = None

    def __init__(self, block: _Block, offset: int, nbytes: int, owned: bool) -> None:
        """Not for callers: use the class methods."""
        self._offset = offset
        self.nbytes = nbytes
        self.place = block.place
        #: True where closing this buffer frees an allocation, False for a borrowed one or a sub-buffer.
        self.owned = owned
        #: True for borrowed memory that must not be written.
        self.readonly = block.readonly
        self._hold = _Hold(block)

    @classmethod
    def empty(cls, nbytes: int, place: Place = CPU) -> Buffer:
        """Allocates ``nbytes`` >= 0 uninitialised bytes. CPU memory is 64-byte aligned; 0 bytes have address 0.

        ``cuMemHostAlloc`` for pinned and ``cuMemAlloc`` for GPU memory. Raises CudaUnavailable or CudaError.
        """
        return cls(_allocate(nbytes, place, zeroed=False), 0, nbytes, owned=True)

    @classmethod
    def zeros(cls, nbytes: int, place: Place = CPU) -> Buffer:
        """``empty``, filled with 0."""
        if place.memory_type == MemoryType.CPU:
            return cls(_allocate(nbytes, place, zeroed=True), 0, nbytes, owned=True)
        buffer = cls.empty(nbytes, place)
        try:
            buffer.fill(0)
        except BaseException:
            buffer.close()
            raise
        return buffer

    @classmethod
    def from_bytes(cls, data: BytesLike | npt.NDArray[Any], place: Place = CPU) -> Buffer:
        """Allocates at ``place`` and copies ``data`` there: bytes-like, or a C-contiguous array's raw bytes.

        Raises ValueError for an array that is not C-contiguous, TypeError for one of Python objects.
        """
        with cls.wrap(array_of(data)) as source:
            buffer = cls.empty(source.nbytes, place)
            try:
                source.copy_to(buffer)
            except BaseException:
                buffer.close()
                raise
            return buffer

    @classmethod
    def wrap(cls, array: npt.NDArray[Any]) -> Buffer:
        """The memory of a C-contiguous array, borrowed without a copy; the array is kept alive. See ``from_bytes``."""
        if array.dtype.hasobject:
            raise TypeError("an array of Python objects has no raw bytes: use tensor.encode for BYTES")
        if not array.flags.c_contiguous:
            raise ValueError(f"the array (shape {array.shape}, strides {array.strides}) is not C-contiguous")
        address = int(array.__array_interface__["data"][0])
        return cls.borrow(address, array.nbytes, CPU, array, readonly=not array.flags.writeable)

    @classmethod
    def borrow(cls, address: int, nbytes: int, place: Place, owner: object, *, readonly: bool = False) -> Buffer:
        """Memory that ``owner`` keeps valid; never freed here, ``owner`` is kept alive instead."""
        _check_size(nbytes)
        return cls(_Block(address, nbytes, place, owner, readonly=readonly), 0, nbytes, owned=False)

    @property
    def address(self) -> int:
        """The first byte's address. Raises ClosedError after ``close()``."""
        return self._open().block.address + self._offset

    @property
    def closed(self) -> bool:
        """True after ``close()``."""
        return self._hold is None

    def close(self) -> None:
        """Frees the memory, or leaves that to the last array, capsule or sub-buffer over it. Idempotent.

        Raises CudaError where the driver refuses to free (``cuMemFreeHost``, ``cuMemFree``).
        """
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.drop()

    def view(self, offset: int, nbytes: int) -> Buffer:
        """The bytes ``offset .. offset + nbytes`` as a buffer of their own, which keeps the memory alive."""
        block = self._open().block
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"bytes {offset} to {offset + nbytes} are not within a buffer of {self.nbytes} bytes")
        return Buffer(block, self._offset + offset, nbytes, owned=False)

    def copy_to(self, other: Buffer, nbytes: int | None = None) -> None:
        """Copies the first ``nbytes`` (default: all of this buffer) to the start of ``other``; there on return.

        Any places, see ``cuda.copy``. Raises ValueError where either buffer is too small or ``other`` is read-only.
        """
        count = self.nbytes if nbytes is None else nbytes
        with _Hold(self._open().block), _Hold(other._open_for_writing().block):
            if not 0 <= count <= min(self.nbytes, other.nbytes):
                raise ValueError(f"cannot copy {count} bytes from a buffer of {self.nbytes} to one of {other.nbytes}")
            cuda.copy(other.address, other.place, self.address, self.place, count)

    def copy_from(self, other: Buffer, nbytes: int | None = None) -> None:
        """``other.copy_to(self, nbytes)``."""
        other.copy_to(self, nbytes)

    def fill(self, value: int) -> None:
        """Sets every byte to ``value`` (0..255)."""
        if not 0 <= value <= 255:
            raise ValueError(f"{value} is not a byte (0..255)")
        with _Hold(self._open_for_writing().block):
            if self.place.on_host:
                self.numpy().fill(value)
            else:
                cuda.memset(self.address, value, self.nbytes, self.place.device)

    def tobytes(self) -> bytes:
        """A copy of the bytes, from any place."""
        if self.place.on_host:
            return self.numpy().tobytes()
        with _Hold(self._open().block):
            host = np.empty(self.nbytes, np.uint8)
            cuda.copy(_array_address(host), CPU, self.address, self.place, self.nbytes)
        return host.tobytes()

    def numpy(self, dtype: npt.DTypeLike = np.uint8, shape: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """The bytes as an array, without a copy: ``shape`` (default: 1-D, all bytes) of ``dtype``.

        Raises ValueError for GPU memory, and where the shape does not take exactly ``nbytes``.
        """
        self._open()
        if not self.place.on_host:
            raise ValueError(f"the CPU cannot read {self.place}: copy these {self.nbytes} bytes to the host first")
        wanted = np.dtype(dtype)
        if wanted.hasobject or wanted.itemsize == 0:
            raise ValueError(f"raw bytes cannot be seen as {wanted}")
        shape = (self.nbytes // wanted.itemsize,) if shape is None else tuple(int(n) for n in shape)
        if min(shape, default=0) < 0 or math.prod(shape) * wanted.itemsize != self.nbytes:
            raise ValueError(f"shape {list(shape)} of {wanted} does not take {self.nbytes} bytes")
        if self.nbytes == 0:
            return np.empty(shape, wanted)
        return self._array().view(wanted).reshape(shape)

    def _array(self) -> npt.NDArray[np.uint8]:
        """A 1-D array of all ``nbytes`` > 0, which keeps the memory alive. One over GPU memory must not be read."""
        base = _ArrayHold(self._open().block)
        data = (self.address, self.readonly)
        base.__array_interface__ = {"version": 3, "shape": (self.nbytes,), "typestr": "|u1", "data": data}
        return np.asarray(base)

    def _open(self) -> _Hold:
        hold = self._hold
        if hold is None:
            raise ClosedError(f"the buffer of {self.nbytes} bytes at {self.place} is closed")
        return hold

    def _open_for_writing(self) -> _Hold:
        hold = self._open()
        if self.readonly:
            raise ValueError(f"the buffer of {self.nbytes} bytes at {self.place} is read-only")
        return hold

    def __enter__(self) -> Buffer:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        hold = self._hold
        if hold is None or sys.is_finalizing():
            return
        warns = self.owned and self.place.memory_type != MemoryType.CPU
        message = f"unclosed {self!r}" if warns else ""
        # The warning may keep the buffer alive, and then it must not look open.
        self._hold = None
        try:
            if warns:
                warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
        finally:
            hold.drop()

    def __repr__(self) -> str:
        where = "closed" if self._hold is None else f"address {self.address:#x}"
        return f"<Buffer of {self.nbytes} bytes at {self.place}, {where}>"


class _Block:
    """One allocation, or borrowed range, and who still holds it."""

    def __init__(
        self, address: int, nbytes: int, place: Place, owner: object, *, readonly: bool = False, owned: bool = False
    ) -> None:
        self.address = address
        self.nbytes = nbytes
        self.place = place
        self.readonly = readonly
        self._owner = owner
        self._owned = owned
        self._gone = False
        self._holds: set[int] = set()
        # Reentrant, with a set in place of a count: the collector may drop another hold while this one is added.
        self._lock = threading.RLock()
        if owned:
            _live.add(self)

    def add(self, hold: _Hold) -> None:
        with self._lock:
            self._holds.add(id(hold))
            if self._gone:
                raise ClosedError(f"the buffer of {self.nbytes} bytes at {self.place} was closed meanwhile")

    def drop(self, hold: _Hold) -> None:
        with self._lock:
            self._holds.discard(id(hold))
            if self._holds or self._gone:
                return
            self._gone = True
        if self._owned:
            self._free()
            _live.discard(self)

    def _free(self) -> None:
        if self.nbytes == 0:
            return
        if self.place.memory_type == MemoryType.CPU_PINNED:
            cuda.free_pinned(self.address)
        elif self.place.memory_type == MemoryType.GPU:
            cuda.free_device(self.address, self.place.device)


class _Hold:
    """One claim on a block, given up by ``drop()``, at the end of a ``with``, or when the holder is collected."""

    def __init__(self, block: _Block) -> None:
        self.block = block
        block.add(self)

    def drop(self) -> None:
        self.block.drop(self)

    def __enter__(self) -> _Hold:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.drop()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.drop()


class _ArrayHold(_Hold):
    """The base of a NumPy array: NumPy reads the interface and keeps the object alive."""

    __array_interface__: dict[str, Any]


def _allocate(nbytes: int, place: Place, zeroed: bool) -> _Block:
    _check_size(nbytes)
    if place.memory_type == MemoryType.CPU:
        if nbytes == 0:
            return _Block(0, 0, place, None, owned=True)
        memory = (np.zeros if zeroed else np.empty)(nbytes + _ALIGNMENT, np.uint8)
        address = _array_address(memory)
        return _Block(address + -address % _ALIGNMENT, nbytes, place, memory, owned=True)
    pinned = place.memory_type == MemoryType.CPU_PINNED
    cuda.require_device(0 if pinned else place.device)
    if nbytes == 0:
        return _Block(0, 0, place, None, owned=True)
    address = cuda.alloc_pinned(nbytes) if pinned else cuda.alloc_device(nbytes, place.device)
    return _Block(address, nbytes, place, None, owned=True)


def array_of(data: BytesLike | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``data`` as an array over the same memory: itself, or 1-D uint8 for bytes-like."""
    if isinstance(data, np.ndarray):
        return data
    view = memoryview(data)
    if not view.c_contiguous:
        raise ValueError("the memoryview is not C-contiguous")
    return np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)


def _array_address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _check_size(nbytes: int) -> None:
    if nbytes < 0:
        raise ValueError(f"a buffer cannot have {nbytes} bytes")
