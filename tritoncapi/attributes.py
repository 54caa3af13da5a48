"""``TRITONSERVER_BufferAttributes``: type, place and size of a buffer, and its CUDA IPC handle."""

from __future__ import annotations

import ctypes
from typing import Any

from ._handle import Handle
from ._library import Library, load
from ._types import MemoryType
from .place import Place

IPC_HANDLE_BYTES = 64


class BufferAttributes(Handle):
    """Attributes of one buffer. Everything is set here: the library leaves a new one's byte size uninitialised."""

    noun = "buffer attributes"

    def __init__(
        self, place: Place, nbytes: int, cuda_ipc_handle: bytes | None = None, library: Library | None = None
    ) -> None:
        library = library or load()
        self._api = library.api
        super().__init__(self._api.BufferAttributesNew(), library)
        self._api.BufferAttributesSetMemoryType(self.pointer, place.memory_type)
        self._api.BufferAttributesSetMemoryTypeId(self.pointer, place.device)
        self._api.BufferAttributesSetByteSize(self.pointer, nbytes)
        self._ipc: Any = None
        if cuda_ipc_handle is not None:
            if len(cuda_ipc_handle) != IPC_HANDLE_BYTES:
                self.close()
                raise ValueError(f"a CUDA IPC handle has {IPC_HANDLE_BYTES} bytes, not {len(cuda_ipc_handle)}")
            self._ipc = ctypes.create_string_buffer(cuda_ipc_handle, IPC_HANDLE_BYTES)
            self._api.BufferAttributesSetCudaIpcHandle(self.pointer, ctypes.addressof(self._ipc))

    @property
    def place(self) -> Place:
        """``TRITONSERVER_BufferAttributesMemoryType`` and ``...MemoryTypeId``."""
        kind = MemoryType(self._api.BufferAttributesMemoryType(self.pointer))
        return Place(kind, self._api.BufferAttributesMemoryTypeId(self.pointer))

    @property
    def nbytes(self) -> int:
        """``TRITONSERVER_BufferAttributesByteSize``."""
        return int(self._api.BufferAttributesByteSize(self.pointer))

    @property
    def cuda_ipc_handle(self) -> bytes | None:
        """The 64 bytes of the handle, or None (``TRITONSERVER_BufferAttributesCudaIpcHandle``)."""
        address = self._api.BufferAttributesCudaIpcHandle(self.pointer)
        return ctypes.string_at(address, IPC_HANDLE_BYTES) if address else None

    def _dispose(self, pointer: Any) -> None:
        self._api.BufferAttributesDelete(pointer)
