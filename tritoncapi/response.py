"""InferenceResponse: outputs as views of the buffers that the allocator gave, without a copy."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy.typing as npt

from ._handle import Handle
from ._library import Library
from ._types import DataType, Error_p, MemoryType
from .dlpack import TensorView
from .errors import Error, TritonError
from .memory import Buffer
from .parameter import ParameterValue, read_value
from .place import CPU, Place
from .tensor import decode, view_at

_DATATYPES = {int(datatype): datatype for datatype in DataType}


class Output:
    """One output tensor, where the allocator put it.

    ``name``, ``datatype``, ``shape`` (elements), ``nbytes``, ``place`` and ``address`` are what
    ``TRITONSERVER_InferenceResponseOutput`` reports. Views stay valid after the response is closed: the response lets
    its buffers go when the last view of them is dropped.
    """

    def __init__(self, response: InferenceResponse, index: int, lease: _Lease) -> None:
        row = response._api.InferenceResponseOutput(response.pointer, index)
        name, datatype, shape, dims, base, nbytes, kind, device, userp = row
        self.index = index
        self.name: str = name.decode()
        self.datatype = _DATATYPES[datatype]
        self.shape: tuple[int, ...] = tuple(shape[:dims]) if dims else ()
        self.address: int = base or 0
        self.nbytes: int = nbytes
        self.place = CPU if kind == CPU.memory_type and device == CPU.device else Place(MemoryType(kind), device)
        self.userp: int | None = userp
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
        if self.place.on_host:
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


class InferenceResponse(Handle):
    """A response that is ours: close it (``TRITONSERVER_InferenceResponseDelete``) to give its buffers back.

    ``final`` tells whether Triton flagged it as the last one, ``time_ns`` when it came (CLOCK_MONOTONIC).
    """

    noun = "inference response"

    def __init__(
        self,
        pointer: Any,
        library: Library,
        *parents: object,
        final: bool = True,
        time_ns: int = 0,
        quick: bool = False,
    ) -> None:
        """``quick``: its buffers are on the CPU and belong to a native allocator, so deleting it keeps the lock."""
        super().__init__(pointer, library, *parents)
        self._library = library
        self._api = library.api
        self._quick = quick
        self.final = final
        self.time_ns = time_ns
        self._outputs: dict[str, Output] | None = None
        self._lease: weakref.ref[_Lease] | None = None

    @property
    def error(self) -> TritonError | None:
        """The error that this response stands for, or None (``TRITONSERVER_InferenceResponseError``)."""
        error = self._api.InferenceResponseError(self.pointer)
        if not error:
            return None
        found = self._api.read_error(error)  # the response owns it: read, never deleted
        assert isinstance(found, TritonError)
        return found

    def raise_for_error(self) -> InferenceResponse:
        """Raises ``error`` if there is one; returns the response."""
        error = self.error
        if error is not None:
            raise error
        return self

    @property
    def model(self) -> tuple[str, int]:
        """Name and version of the model that answered (``TRITONSERVER_InferenceResponseModel``)."""
        name, version = self._api.InferenceResponseModel(self.pointer)
        return name.decode(), version

    @property
    def id(self) -> str:
        """The request's id (``TRITONSERVER_InferenceResponseId``)."""
        return (self._api.InferenceResponseId(self.pointer) or b"").decode()

    @property
    def parameters(self) -> dict[str, ParameterValue]:
        """The response's parameters (``TRITONSERVER_InferenceResponseParameter``)."""
        found = {}
        for index in range(self._api.InferenceResponseParameterCount(self.pointer)):
            name, kind, address = self._api.InferenceResponseParameter(self.pointer, index)
            found[name.decode()] = read_value(kind, address)
        return found

    @property
    def outputs(self) -> Mapping[str, Output]:
        """The outputs by name, in the response's order."""
        if self._outputs is None or self.closed:
            count = self._api.InferenceResponseOutputCount(self.pointer)
            lease = _Lease()
            self._lease = weakref.ref(lease)
            found = (Output(self, index, lease) for index in range(count))
            self._outputs = {output.name: output for output in found}
        return self._outputs

    def __getitem__(self, name: str) -> Output:
        try:
            return self.outputs[name]
        except KeyError:
            have = ", ".join(self.outputs) or "none"
            raise Error(f"the response has no output {name!r}; it has {have}") from None

    def __iter__(self) -> Iterator[Output]:
        return iter(self.outputs.values())

    def __len__(self) -> int:
        return len(self.outputs)

    def _dispose(self, pointer: Any) -> None:
        self._outputs = None
        lease = self._lease() if self._lease is not None else None
        if lease is None and self._quick:
            error = self._library.native.response_delete(pointer)
            if error:
                raise self._api.take_error(ctypes.cast(error, Error_p), "TRITONSERVER_InferenceResponseDelete")
        elif lease is None:
            self._api.InferenceResponseDelete(pointer)
        else:
            lease.end(lambda: self._api.InferenceResponseDelete(pointer))


class _Lease:
    """What views of the outputs hold. The response is deleted when it is closed and the last holder is gone."""

    def __init__(self) -> None:
        self._delete: Callable[[], None] | None = None

    def end(self, delete: Callable[[], None]) -> None:
        self._delete = delete

    def __del__(self) -> None:
        if self._delete is not None:
            self._delete()
