"""DLPack: a buffer as a tensor for NumPy, PyTorch or CuPy, and their tensors as buffers, without a copy."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import cuda, tensor
from ._types import DataType, MemoryType
from .memory import Buffer
from .place import CPU, PINNED, Place, gpu

CPU_DEVICE = 1  # kDLCPU
CUDA_DEVICE = 2  # kDLCUDA
CUDA_HOST_DEVICE = 3  # kDLCUDAHost
CUDA_MANAGED_DEVICE = 13  # kDLCUDAManaged

_DEVICE_OF = {MemoryType.CPU: CPU_DEVICE, MemoryType.CPU_PINNED: CUDA_HOST_DEVICE, MemoryType.GPU: CUDA_DEVICE}
_CODE_OF_KIND = {"i": 0, "u": 1, "f": 2, "b": 6}
_BFLOAT_CODE = 4
_DEFAULT_STREAM = 1  # CUDA's legacy default stream, in DLPack's numbering

# Capsules keep pointers to their names.
_NAME = b"dltensor"
_USED_NAME = b"used_dltensor"
_OfCapsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_is_valid = _OfCapsule(("PyCapsule_IsValid", ctypes.pythonapi))
_set_name = _OfCapsule(("PyCapsule_SetName", ctypes.pythonapi))
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Device(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _ElementType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _ElementType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("dl_tensor", _DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class TensorView:
    """A buffer seen as a tensor of ``datatype`` and ``shape``; nothing is copied, and the buffer stays its owner's.

    Raises ValueError where the buffer does not have exactly the tensor's bytes.
    """

    def __init__(self, buffer: Buffer, datatype: DataType, shape: Sequence[int]) -> None:
        self.buffer = buffer
        self.datatype = datatype
        self.shape = tuple(int(size) for size in shape)
        #: Its number in once.py, and what it is the number of.
        self._kind: tuple[Buffer | None, DataType | None, tuple[int, ...] | None, int] = (None, None, None, 0)
        if datatype != DataType.BYTES:
            expected = tensor.byte_size(datatype, self.shape)
            if buffer.nbytes != expected:
                raise ValueError(
                    f"a {datatype.name} tensor of shape {list(self.shape)} has {expected} bytes,"
                    f" the buffer has {buffer.nbytes}"
                )

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self.buffer.nbytes

    @property
    def place(self) -> Place:
        """Where the buffer is."""
        return self.buffer.place

    def numpy(self) -> npt.NDArray[Any]:
        """The tensor as an array over the buffer's host memory; BF16 as its raw uint16 bits.

        Raises ValueError for GPU memory, and for BYTES, which ``tensor.decode`` reads.
        """
        if self.datatype == DataType.BYTES:
            raise ValueError("a BYTES tensor cannot be seen as an array without a copy: use tensor.decode")
        return self.buffer.numpy(tensor.storage_dtype(self.datatype), self.shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's device type (1 CPU, 2 CUDA, 3 pinned) and the device id."""
        return _DEVICE_OF[self.place.memory_type], self.place.device if not self.place.on_host else 0

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule ``dltensor`` (DLPack before 1.0) whose consumer shares the memory and keeps it alive.

        ``stream`` needs no wait: this package's copies are complete when they return. Pinned memory goes as CPU memory
        where ``dl_device`` is (1, 0): PyTorch takes it only so. Raises BufferError for BYTES, for read-only memory,
        which such a capsule cannot declare, and where another device or a copy is asked for.
        """
        if self.datatype == DataType.BYTES:
            raise BufferError("a BYTES tensor has elements of different lengths, which DLPack cannot describe")
        if copy:
            raise BufferError("the tensor is shared without a copy only")
        device = self.__dlpack_device__()
        if dl_device is not None and tuple(dl_device) != device:
            if not self.place.on_host or tuple(dl_device) != (CPU_DEVICE, 0):
                raise BufferError(f"the tensor is at {self.place}, DLPack device {device}, not at {tuple(dl_device)}")
            device = (CPU_DEVICE, 0)
        if self.buffer.readonly:
            raise BufferError("the tensor is read-only, which a capsule of DLPack before 1.0 cannot declare")
        return self._capsule(device)

    def _capsule(self, device: tuple[int, int]) -> object:
        # NumPy makes the capsule, from an array of the same address and layout which it never reads, and only the
        # labels are changed. So the deleter, which may run in any thread, with an error pending or after Python has
        # ended, is NumPy's C code, and no Python function is ever called from there.
        stored = tensor.storage_dtype(self.datatype)
        alike = np.dtype(f"u{stored.itemsize}")
        bare = self.buffer._array().view(alike) if self.nbytes else np.empty(0, alike)
        capsule: object = bare.reshape(self.shape).__dlpack__()
        described = _managed(capsule).contents.dl_tensor
        described.device = _Device(*device)
        described.dtype.code = _BFLOAT_CODE if self.datatype == DataType.BF16 else _CODE_OF_KIND[stored.kind]
        return capsule

    def __repr__(self) -> str:
        return f"<TensorView {self.datatype.name} {list(self.shape)} of {self.buffer!r}>"


def from_dlpack(source: Any) -> tuple[Buffer, DataType, tuple[int, ...]]:
    """The memory of any object with ``__dlpack__``, borrowed: its buffer, datatype and shape.

    The producer's tensor is kept until the buffer and all that was made of it are gone, then its deleter is called.
    A CUDA tensor is complete on return (``cuCtxSynchronize``). Raises BufferError for a tensor that is not contiguous
    in C order, for an element type that Triton lacks, for devices other than CPU and CUDA, and where the producer
    refuses; TypeError for an object without ``__dlpack__``.
    """
    if not hasattr(source, "__dlpack__") or not hasattr(source, "__dlpack_device__"):
        raise TypeError(f"{type(source).__name__} has no __dlpack__: it is no DLPack tensor")
    device_type, device = source.__dlpack_device__()
    if device_type in (CUDA_DEVICE, CUDA_MANAGED_DEVICE):
        # PyTorch exports from the current device only.
        with cuda.current(device):
            capsule = source.__dlpack__(stream=_DEFAULT_STREAM)
    else:
        capsule = source.__dlpack__()
    managed = _managed(capsule)
    described = managed.contents.dl_tensor
    # All that may fail comes before the capsule is taken over: until then it cleans up after itself.
    place = _place(described.device)
    datatype = _datatype(described.dtype)
    shape = tuple(described.shape[: described.ndim])
    if described.strides and not _contiguous(shape, described.strides[: described.ndim]):
        raise BufferError(f"the tensor of shape {list(shape)} is not contiguous in C order: make it so first")
    if not place.on_host:
        cuda.synchronize(place.device)
    _set_name(capsule, _USED_NAME)
    address = (described.data or 0) + described.byte_offset
    buffer = Buffer.borrow(address, tensor.byte_size(datatype, shape), place, _Imported(managed))
    return buffer, datatype, shape


class _Imported:
    """A consumed DLManagedTensor; its deleter is called once, at the end of this object."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed
        deleter = managed.contents.deleter
        # The interpreter lock is held, as it is where a capsule's own destructor calls the deleter.
        self._deleter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(deleter) if deleter else None

    def __del__(self) -> None:
        if self._deleter is not None:
            self._deleter(self._managed)


def _managed(capsule: object) -> Any:
    if not _is_valid(capsule, _NAME):
        raise BufferError("the producer gave no unconsumed capsule named dltensor (DLPack before 1.0)")
    return ctypes.cast(_get_pointer(capsule, _NAME), ctypes.POINTER(_DLManagedTensor))


def _place(device: _Device) -> Place:
    if device.device_type == CPU_DEVICE:
        return CPU
    if device.device_type == CUDA_HOST_DEVICE:
        return PINNED
    if device.device_type in (CUDA_DEVICE, CUDA_MANAGED_DEVICE):
        return gpu(device.device_id)
    raise BufferError(f"DLPack device type {device.device_type} is neither CPU nor CUDA memory")


def _datatype(element: _ElementType) -> DataType:
    if element.lanes == 1:
        if (element.code, element.bits) == (_BFLOAT_CODE, 16):
            return DataType.BF16
        for kind, code in _CODE_OF_KIND.items():
            if code == element.code and element.bits % 8 == 0:
                try:
                    return tensor.datatype_of(f"{kind}{element.bits // 8}")
                except TypeError:
                    break
    raise BufferError(f"Triton has no DLPack type code {element.code}, {element.bits} bits, {element.lanes} lane(s)")


def _contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    if math.prod(shape) == 0:
        return True
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True
