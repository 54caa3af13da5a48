"""``Server.infer`` of plain tensors: a request is made, sent, answered and deleted again in one native call.

Plain are contiguous NumPy arrays of fixed-size elements, and TensorViews, wherever they are.

What requests share that go to the same model with inputs of the same names, datatypes and shapes is kept as a form.
What is not plain goes the general way, through an InferenceRequest; so does what takes longer than the native call.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from ._names import c_name
from ._native import ONCE_ANSWER, ONCE_ANSWER_AT, ONCE_REQUEST_AT, Input, Once
from ._types import DataType, Error_p, InferenceRequest_p
from .allocator_base import Allocator, NativeAllocator
from .dlpack import TensorView
from .execution import Execution, InferTimeout, checked, only_response
from .output import Look
from .place import CPU, Place
from .request import InferenceRequest, _forgotten
from .response import NOWHERE, InferenceResponse
from .tensor import data_offset, datatype_of, raw_address

if TYPE_CHECKING:
    from .server import Server

_FORMS = 256  # of one server; the next one takes the place of all
_POINTER = ctypes.sizeof(ctypes.c_void_p)
_FIRST_WAIT = 0.01  # seconds in the native call; longer waits can be interrupted
_KINDS = 4096  # of views, of all servers; what comes later goes the general way
_Tensors = dict[str, Any]

_Kind = tuple[DataType, tuple[int, ...], Place, int]
"""Of a view: datatype, shape, place, bytes."""

_numbers: dict[_Kind, int] = {}
_kinds: list[_Kind] = []


def _number(view: TensorView) -> int | None:
    """Of the view's kind: quick to look up, as the kind itself is not. None: it is not plain."""
    buffer, datatype, shape, known = view._kind
    if buffer is view.buffer and datatype is view.datatype and shape is view.shape:
        return known  # these three say that it is
    kind = view.datatype, view.shape, view.buffer.place, view.buffer.nbytes
    number = _numbers.get(kind)
    if number is None:
        if len(_kinds) >= _KINDS or not view.buffer.nbytes:
            return None
        _kinds.append(kind)
        number = _numbers.setdefault(kind, len(_kinds) - 1)
    view._kind = view.buffer, view.datatype, view.shape, number
    return number


class _Form:
    """What the requests for one model and version share whose inputs have certain names, datatypes and shapes."""

    def __init__(self, server: Server, key: list[Any]) -> None:
        """``key``: model, version, and of each input name, dtype and shape, or name, number of the kind and None."""
        model, self._version, *inputs = key
        self._server = server.pointer
        self._model = c_name(model, "a model's")
        self._inputs = (Input * (len(inputs) // 3))()
        self._shapes = []  # the rows have but their addresses
        for row, name, dtype, dims in zip(self._inputs, inputs[::3], inputs[1::3], inputs[2::3], strict=True):
            if dims is None:
                datatype, sizes, place, row.byte_size = _kinds[dtype]
            else:
                datatype, sizes, place, row.byte_size = datatype_of(dtype), dims, CPU, math.prod(dims) * dtype.itemsize
            shape = (ctypes.c_int64 * len(sizes))(*sizes)
            self._shapes.append(shape)
            row.name, row.datatype = c_name(name, "an input's"), datatype
            row.shape, row.dims = ctypes.addressof(shape), len(sizes)
            row.memory_type, row.device = place.memory_type, place.device
        self.views = any(dims is None for dims in inputs[2::3])
        self.idle: list[_Run] = []

    def run(self) -> _Run:
        """One more."""
        once = Once()
        once.server, once.model, once.version = self._server, self._model, self._version
        once.inputs, once.count = ctypes.addressof(self._inputs), len(self._inputs)
        once.data_at = data_offset() or 0
        once.timeout_ns = int(_FIRST_WAIT * 1e9)
        return _Run(once, len(self._inputs), (self._inputs, self._shapes))


class _Run:
    """What one call needs; used by one thread at a time. Idle, it has neither key nor response."""

    __slots__ = ("addresses", "allocator", "arrays", "at", "keep", "look", "once")

    def __init__(self, once: Once, count: int, keep: object) -> None:
        self.once = once
        self.arrays = (ctypes.c_void_p * count)()
        self.addresses = (ctypes.c_void_p * count)()  # of views' data
        once.arrays = ctypes.addressof(self.arrays)
        self.look = Look()
        once.look = self.look.address
        self.at = ctypes.addressof(once)
        self.keep = keep
        self.allocator: Allocator | None = None  # the one in `once`, if it is the server's own

    def point(self, tensors: _Tensors) -> None:
        """To the data of these, some of them views."""
        for index, tensor in enumerate(tensors.values()):
            if type(tensor) is TensorView:
                self.addresses[index] = tensor.buffer.address
                self.arrays[index] = ctypes.addressof(self.addresses) + index * _POINTER - self.once.data_at
            else:
                self.arrays[index] = id(tensor)


class OneCall:
    """A server's forms, and who is within a call."""

    def __init__(self, server: Server) -> None:
        self._library = server.library
        self._native = server.library.native
        self._forms: dict[tuple[object, ...], _Form] = {}
        self._busy: dict[_Run, int] = {}  # -> its thread
        self._left = threading.Event()
        self._usable = data_offset() is not None  # else no array is plain
        self._closed = False

    def infer(
        self, server: Server, model: str, inputs: Any, version: int, timeout: float | None, allocator: Allocator | None
    ) -> InferenceResponse | None:
        """None: this has to go the general way. Else the response, or what ``InferenceRequest.infer`` raises."""
        if not self._usable or type(inputs) is not dict or type(model) is not str or type(version) is not int:
            return None
        if (timeout is not None and timeout < _FIRST_WAIT) or not -1 <= version < 1 << 63:
            return None
        tensors = inputs.copy()  # other threads may change theirs
        key: list[object] = [model, version]
        for name, tensor in tensors.items():
            if type(tensor) is np.ndarray and tensor.flags.c_contiguous:
                key += name, tensor.dtype, tensor.shape
            elif type(tensor) is TensorView and (number := _number(tensor)) is not None:
                key += name, number, None
            else:
                return None
        form = self._forms.get(tuple(key)) or self._form(server, key, tensors)
        chosen = server.default_allocator if allocator is None else allocator
        if form is None or not isinstance(chosen, NativeAllocator) or chosen._pointer is None:
            return None
        try:
            run = form.idle.pop()
        except IndexError:
            run = form.run()
        try:
            self._busy[run] = get_ident()
            # Looked at after that: who closes does it the other way round.
            if self._closed or server._pointer is None:
                return None
            outcome = self._send(server, model, form, run, tensors, chosen)
        finally:
            self._busy.pop(run, None)
            if self._closed:
                self._left.set()
        if isinstance(outcome, InferenceRequest):
            with outcome as request:
                execution = request._execution
                assert execution is not None
                if not execution.wait(None if timeout is None else timeout - _FIRST_WAIT):
                    raise InferTimeout(execution.explain(timeout))
                return only_response(execution)
        failed = run.once.failed
        form.idle.append(run)
        return checked(outcome) if failed else outcome

    def close(self, timeout: float) -> None:
        """Lets no more in, and waits until those within have their answer or an InferenceRequest."""
        self._closed = True
        deadline = time.monotonic() + timeout
        me = get_ident()  # a signal's handler may do this in the midst of a call
        while True:
            self._left.clear()
            left = deadline - time.monotonic()
            if left <= 0 or all(thread == me for thread in list(self._busy.values())):
                break
            self._left.wait(left)
        self._forms.clear()

    def _form(self, server: Server, key: list[object], tensors: _Tensors) -> _Form | None:
        """A new form, or None when an array or a name is not plain."""
        if any(type(tensor) is np.ndarray and raw_address(tensor) is None for tensor in tensors.values()):
            return None
        if any(type(name) is not str for name in tensors) or server._pointer is None:
            return None
        if any("\0" in name for name in (str(key[0]), *tensors)):
            return None
        if len(self._forms) >= _FORMS:
            self._forms.clear()
        form = self._forms[tuple(key)] = _Form(server, key)
        return form

    def _send(
        self, server: Server, model: str, form: _Form, run: _Run, tensors: _Tensors, chosen: NativeAllocator
    ) -> InferenceResponse | InferenceRequest:
        """The native call: the response, or the request that goes on, which the server knows by now."""
        once = run.once
        if form.views:
            run.point(tensors)
        else:
            run.arrays[:] = list(map(id, tensors.values()))
        if run.allocator is not chosen:
            once.allocator, once.allocator_userp = chosen.pointer, chosen.userp
            run.allocator = chosen if chosen is server._default_allocator else None
        response: InferenceResponse | None = None
        try:
            error = self._native.once_run(run.at)
            if error:
                raise self._library.api.take_error(ctypes.cast(error, Error_p), once.call.decode())
            if once.key:
                return self._going_on(server, model, once, tensors, chosen)
            address, time_ns, thread, final, failed = ONCE_ANSWER.unpack_from(once, ONCE_ANSWER_AT)
            if thread not in server._heard_from.get(model, ()):
                server._heard(model, thread)
            quick = NOWHERE if run.allocator is not None or chosen.reuse else None
            response = InferenceResponse.came(address, self._library, (chosen, server), quick, final, time_ns)
            once.response = None
            if not failed:
                response._looked = run.look.take()
            return response
        except BaseException:  # Ctrl-C, or an error
            if response is not None:
                response.close()
            elif once.response:
                self._native.run_put_aside(None, once.response, None)
            if once.key:
                self._going_on(server, model, once, tensors, chosen).close()
            raise

    def _going_on(
        self, server: Server, model: str, once: Once, tensors: _Tensors, chosen: NativeAllocator
    ) -> InferenceRequest:
        held: dict[str, list[object]] = {name: [tensor] for name, tensor in tensors.items()}
        execution = Execution(self._library, once.key, (chosen, server))
        pointer = InferenceRequest_p.from_buffer_copy(once, ONCE_REQUEST_AT)
        try:
            once.key = 0
            return InferenceRequest.started(server, model, pointer, held, execution)
        except BaseException:  # Ctrl-C: a leak is better than memory freed under Triton
            _forgotten.append((held, execution))
            raise
