"""What a request says: its inputs, the outputs it asks for, and how it is to be treated."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from ._handle import Handle
from ._names import c_name
from ._types import DataType, MemoryType, ParameterType, RequestFlag
from .attributes import BufferAttributes
from .dlpack import TensorView, from_dlpack
from .errors import Error, InFlightError
from .memory import Buffer
from .parameter import ParameterValue, parameter_type
from .tensor import datatype_of, encode, raw_address

InputData = npt.ArrayLike | TensorView | Any
"""A tensor: an array or what NumPy makes one of, a TensorView, or anything with DLPack (a CuPy or torch tensor)."""


_ON_CPU = (MemoryType.CPU, 0)
IN_FLIGHT = "this request is in flight: wait for its final response and its release first"

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Method = Callable[Concatenate["RequestContent", _Arguments], _Result]


def _changing(method: _Method[_Arguments, _Result]) -> _Method[_Arguments, _Result]:
    """A method that changes a request: not in flight, and no other thread sends it meanwhile."""

    @functools.wraps(method)
    def changed(self: RequestContent, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        self.pointer  # noqa: B018 - raises at once, where the lock would be waited for
        with self._lock:
            if not self._own_run(0):
                raise InFlightError(IN_FLIGHT)
            return method(self, *args, **kwargs)

    return changed


class RequestContent(Handle):
    """All that is set before a request is sent, and may be changed while it is not in flight."""

    _api: Any
    _lock: threading.RLock
    _held: dict[str, list[object]]  # what the appended addresses belong to

    def _own_run(self, timeout_ns: int = -1) -> bool:
        """Whether this is nobody else's to send now."""
        raise NotImplementedError

    @property
    def id(self) -> str:
        """``TRITONSERVER_InferenceRequestId``."""
        return (self._api.InferenceRequestId(self.pointer) or b"").decode()

    @id.setter
    @_changing
    def id(self, value: str) -> None:
        self._api.InferenceRequestSetId(self.pointer, value.encode())

    @property
    def flags(self) -> RequestFlag:
        """Start and end of a sequence (``TRITONSERVER_InferenceRequestFlags``)."""
        return RequestFlag(self._api.InferenceRequestFlags(self.pointer))

    @flags.setter
    @_changing
    def flags(self, value: RequestFlag) -> None:
        self._api.InferenceRequestSetFlags(self.pointer, value)

    @property
    def correlation_id(self) -> int | str:
        """The sequence's id, an unsigned 64-bit integer or a string of at most 128 bytes; 0 for none."""
        try:
            return int(self._api.InferenceRequestCorrelationId(self.pointer))
        except Error:  # it is a string: the integer getter refuses it
            return (self._api.InferenceRequestCorrelationIdString(self.pointer) or b"").decode()

    @correlation_id.setter
    @_changing
    def correlation_id(self, value: int | str) -> None:
        if isinstance(value, str):
            self._api.InferenceRequestSetCorrelationIdString(self.pointer, value.encode())
        else:
            self._api.InferenceRequestSetCorrelationId(self.pointer, value)

    @property
    def priority(self) -> int:
        """1 is the highest, 0 the model's default (``TRITONSERVER_InferenceRequestPriorityUInt64``)."""
        return int(self._api.InferenceRequestPriorityUInt64(self.pointer))

    @priority.setter
    @_changing
    def priority(self, value: int) -> None:
        self._api.InferenceRequestSetPriorityUInt64(self.pointer, value)

    @property
    def timeout_us(self) -> int:
        """Microseconds the request may wait in the queue; 0 for no limit."""
        return int(self._api.InferenceRequestTimeoutMicroseconds(self.pointer))

    @timeout_us.setter
    @_changing
    def timeout_us(self, value: int) -> None:
        self._api.InferenceRequestSetTimeoutMicroseconds(self.pointer, value)

    @_changing
    def set_parameter(self, name: str, value: ParameterValue) -> None:
        """Sets a request parameter: str, int, bool or float (``TRITONSERVER_InferenceRequestSet*Parameter``)."""
        kind = parameter_type(value)
        if kind == ParameterType.BYTES:
            raise TypeError("a request parameter cannot be bytes: the C API has no call for it")
        setter = {
            ParameterType.STRING: self._api.InferenceRequestSetStringParameter,
            ParameterType.INT: self._api.InferenceRequestSetIntParameter,
            ParameterType.BOOL: self._api.InferenceRequestSetBoolParameter,
            ParameterType.DOUBLE: self._api.InferenceRequestSetDoubleParameter,
        }[kind]
        setter(self.pointer, name.encode(), value.encode() if isinstance(value, str) else value)

    # Inputs and outputs

    @_changing
    def set_input(self, name: str, data: InputData, *, host_policy: str | None = None) -> None:
        """Adds an input with its data, replacing one of the same name. The data is not copied where it need not be.

        Data for a ``host_policy`` does not do alone: Triton wants some for everybody too (``append``).
        """
        array: Any = data
        address = raw_address(array) if host_policy is None else None
        if address is None:
            datatype, shape, buffer = tensor_of(array)
        else:
            datatype, shape = datatype_of(array), array.shape
        if name in self._held:
            self.remove_input(name)
        self.add_input(name, datatype, shape)
        if address is None:
            self.append(name, buffer, host_policy=host_policy)
        else:  # no Buffer for the plainest case: it would cost more than all the rest
            self._api.InferenceRequestAppendInputData(self.pointer, name.encode(), address, array.nbytes, *_ON_CPU)
            self._held[name].append(array)

    @_changing
    def add_input(self, name: str, datatype: DataType, shape: Sequence[int]) -> None:
        """Declares an input; ``append`` gives it data (``TRITONSERVER_InferenceRequestAddInput``)."""
        dims = (ctypes.c_int64 * len(shape))(*shape)
        self._api.InferenceRequestAddInput(self.pointer, c_name(name, "an input's"), datatype, dims, len(shape))
        self._held[name] = []

    @_changing
    def add_raw_input(self, name: str) -> None:
        """Declares the one input whose bytes the model takes as they are (``...AddRawInput``)."""
        self._api.InferenceRequestAddRawInput(self.pointer, c_name(name, "an input's"))
        self._held[name] = []

    @_changing
    def append(
        self,
        name: str,
        data: Buffer | npt.NDArray[Any] | bytes,
        *,
        host_policy: str | None = None,
        attributes: BufferAttributes | None = None,
    ) -> None:
        """Appends a chunk to an input: raw bytes, in any memory; kept alive until the input's data is removed.

        With ``host_policy`` only instances of that policy see it (``...AppendInputDataWithHostPolicy``); with
        ``attributes`` their type, place and size count (``...WithBufferAttributes``).
        """
        if isinstance(data, bytes):
            data = np.frombuffer(data, np.uint8)
        buffer = data if isinstance(data, Buffer) else Buffer.wrap(encode(data))
        place = (buffer.place.memory_type, buffer.place.device)
        address = buffer.address or None
        encoded = c_name(name, "an input's")
        if attributes is not None:
            if host_policy is not None:
                raise ValueError("an input chunk has either a host policy or buffer attributes")
            self._api.InferenceRequestAppendInputDataWithBufferAttributes(
                self.pointer, encoded, address, attributes.pointer
            )
        elif host_policy is not None:
            self._api.InferenceRequestAppendInputDataWithHostPolicy(
                self.pointer, encoded, address, buffer.nbytes, *place, c_name(host_policy, "a host policy's")
            )
        else:
            self._api.InferenceRequestAppendInputData(self.pointer, encoded, address, buffer.nbytes, *place)
        self._held.setdefault(name, []).append((buffer, attributes))

    @_changing
    def remove_input_data(self, name: str) -> None:
        """Removes an input's data and keeps its declaration (``...RemoveAllInputData``)."""
        self._api.InferenceRequestRemoveAllInputData(self.pointer, c_name(name, "an input's"))
        self._held[name] = []

    @_changing
    def remove_input(self, name: str) -> None:
        """Removes one input (``...RemoveInput``)."""
        self._api.InferenceRequestRemoveInput(self.pointer, c_name(name, "an input's"))
        self._held.pop(name, None)

    @_changing
    def remove_all_inputs(self) -> None:
        """Removes every input (``...RemoveAllInputs``)."""
        self._api.InferenceRequestRemoveAllInputs(self.pointer)
        self._held.clear()

    @_changing
    def add_output(self, name: str) -> None:
        """Asks for this output; without any, the model gives all (``...AddRequestedOutput``)."""
        self._api.InferenceRequestAddRequestedOutput(self.pointer, c_name(name, "an output's"))

    @_changing
    def remove_output(self, name: str) -> None:
        """``TRITONSERVER_InferenceRequestRemoveRequestedOutput``."""
        self._api.InferenceRequestRemoveRequestedOutput(self.pointer, c_name(name, "an output's"))

    @_changing
    def remove_all_outputs(self) -> None:
        """``TRITONSERVER_InferenceRequestRemoveAllRequestedOutputs``."""
        self._api.InferenceRequestRemoveAllRequestedOutputs(self.pointer)


def tensor_of(data: InputData) -> tuple[DataType, tuple[int, ...], Buffer]:
    """Datatype, shape and raw bytes of what a user gives for a tensor."""
    if isinstance(data, TensorView):
        return data.datatype, tuple(data.shape), data.buffer
    if hasattr(data, "__dlpack__") and not isinstance(data, (np.ndarray, np.generic)):
        buffer, datatype, shape = from_dlpack(data)
        return datatype, shape, buffer
    array = np.asarray(data)
    return datatype_of(array), array.shape, Buffer.wrap(encode(array))


def view_of(data: InputData) -> TensorView:
    """The tensor, encoded once, for requests that share it."""
    datatype, shape, buffer = tensor_of(data)
    return TensorView(buffer, datatype, shape)
