"""InferenceRequest: what a model is asked, and the ways to wait for its answer."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from ._handle import Handle
from ._names import c_name
from ._native import RUN_RESPONSE, RUN_RESULTS, RUN_RESULTS_AT, RUN_TAKEN, RUN_THREADS, Run
from ._types import DataType, Error_p, InferenceResponse_p, MemoryType, ParameterType, RequestFlag
from .allocator import Allocator
from .attributes import BufferAttributes
from .awaiting import infer_await
from .dlpack import TensorView, from_dlpack
from .errors import Error, InFlightError
from .execution import Execution, InferTimeout
from .many import Batch, the_one
from .memory import Buffer
from .output import Look
from .parameter import ParameterValue, parameter_type
from .pending import Abandoned, InferFuture, stream_async
from .response import NOWHERE, InferenceResponse, Quick
from .tensor import datatype_of, encode, raw_address
from .trace import Trace

if TYPE_CHECKING:
    from .awaiting import Inbox
    from .server import Server

InputData = npt.ArrayLike | TensorView | Any
"""A tensor: an array or what NumPy makes one of, a TensorView, or anything with DLPack (a CuPy or torch tensor)."""


_ON_CPU = (MemoryType.CPU, 0)
_IN_FLIGHT = "this request is in flight: wait for its final response and its release first"
_FIRST_WAIT = 0.01  # seconds in one native call with the request's lock held; longer waits can be interrupted
_FIRST_WAIT_NS = int(_FIRST_WAIT * 1e9)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Method = Callable[Concatenate["InferenceRequest", _Arguments], _Result]


def _changing(method: _Method[_Arguments, _Result]) -> _Method[_Arguments, _Result]:
    """A method that changes a request: not in flight, and no other thread sends it meanwhile."""

    @functools.wraps(method)
    def changed(self: InferenceRequest, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        self.pointer  # noqa: B018 - raises at once, where the lock would be waited for
        with self._lock:
            if not self._own_run(0):
                raise InFlightError(_IN_FLIGHT)
            return method(self, *args, **kwargs)

    return changed


class InferenceRequest(Handle):
    """A request for one model (``TRITONSERVER_InferenceRequestNew``); may be used again when it is not in flight.

    While it is in flight it is Triton's: everything but ``cancel`` and ``is_cancelled`` raises InFlightError. Closing
    it then cancels it, and it is deleted when Triton gives it back.
    """

    noun = "inference request"

    def __init__(self, server: Server, model: str, version: int = -1) -> None:
        """``version`` -1 lets the model's version policy choose. Raises NotFoundError, UnavailableError."""
        if not -1 <= version < 1 << 63:
            raise ValueError(f"a model's version is -1 to 2**63 - 1, not {version}")
        pointer = server.library.api.InferenceRequestNew(server.pointer, c_name(model, "a model's"), version)
        self._own(server, model, pointer)
        server._requests.add(self)

    @classmethod
    def started(
        cls, server: Server, model: str, pointer: Any, held: dict[str, list[object]], execution: Execution
    ) -> InferenceRequest:
        """One that native code made and submitted; ``held`` is what its inputs' data belongs to."""
        request = cls.__new__(cls)
        request._own(server, model, pointer)
        request._held, request._execution = held, execution
        server._requests.add(request)  # now: a server that stops closes it
        return request

    def _own(self, server: Server, model: str, pointer: Any) -> None:
        self._library = server.library
        self._api = server.library.api
        self._server = server
        self.model = model
        self._held: dict[str, list[object]] = {}  # what the appended addresses belong to
        self._current: Execution | None = None
        self._queued_in: Inbox | None = None  # to be submitted soon
        self._awaited_in: Inbox | None = None  # the answer goes there
        self._posted = 0  # key of a call that nobody needed an Execution for so far
        self._run = Run()
        self._run_at = ctypes.addressof(self._run)
        self._running = False  # within one native call, which holds the lock
        self._idle = False  # nothing has to be done before it can be sent with the allocator in _run
        self._shared = False  # native code may take it, for a call of many; see _own_run
        self._batch: Batch | None = None  # the last one that it was the first of
        self._batches: list[Batch] = []  # those it is in
        self._look: Look | None = None  # what infer() reads of its outputs
        self._threads: tuple[int, ...] = ()  # the model answered on these
        self._chosen: Allocator | None = None  # the one in _run
        self._quick: Quick | None = None  # where a response with its outputs may be put aside
        self._lock = threading.RLock()  # a stopping server closes requests that other threads are about to start
        super().__init__(pointer, server)
        self._run.server, self._run.request = server.pointer, pointer

    # What the request says

    @property
    def pointer(self) -> Any:
        """The C pointer, while it is ours."""
        if self._is_within() or self.in_flight:
            raise InFlightError(_IN_FLIGHT)
        return super().pointer

    @property
    def in_flight(self) -> bool:
        """True from ``start`` until the final response and the release have both come."""
        if self._queued_in is not None:
            self._queued_in.flush()
        if self._is_within():
            return self._run.key != 0  # submitted: from now on it can be cancelled
        return self._execution is not None and not self._execution.done

    @property
    def _execution(self) -> Execution | None:
        """What is in flight, or was the last time."""
        if self._queued_in is not None:
            self._queued_in.flush()
        if self._posted:
            with self._lock:
                key, self._posted = self._posted, 0
                if key:
                    self._current = Execution(self._library, key, (self._chosen, self._server))
        elif self._shared and not self._run.state:
            with self._lock:
                self._own_run()
        return self._current

    @_execution.setter
    def _execution(self, execution: Execution | None) -> None:
        self._current = execution
        self._posted = 0

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

    # Running it

    def start(self, allocator: Allocator | None = None, trace: Trace | None = None) -> Execution:
        """Submits the request (``TRITONSERVER_ServerInferAsync``); the other forms are built on this one.

        Without an allocator the outputs go to CPU memory. Raises what Triton raises at once; the request is then ours
        still, and no callback comes.
        """
        chosen: Allocator = allocator if allocator is not None else self._server.default_allocator
        with self._lock:
            self._own_run()
            arguments = (self._server.pointer, self.pointer, chosen.pointer, chosen.userp)
            self._idle = False
            if self._execution is not None:
                self._put_away(self._execution)
                self._execution = None
            submitted = trace.submit() if trace is not None else None
            key = ctypes.c_uint64()
            self._running = True
            try:
                error = self._library.native.call_start(*arguments, submitted, ctypes.byref(key))
            finally:
                if key.value:
                    self._execution = Execution(self._library, key.value, (chosen, self._server))
                self._running = False
            if error:
                if trace is not None:
                    trace.refused(submitted)
                raise self._api.take_error(error, "TRITONSERVER_ServerInferAsync")
            execution = self._execution
            assert execution is not None
            return execution

    def infer(
        self, *, timeout: float | None = None, allocator: Allocator | None = None, trace: Trace | None = None
    ) -> InferenceResponse:
        """Runs the request and returns its one response. Raises the response's error; InferTimeout after ``timeout``
        seconds; Error when a decoupled model sends none or several (use ``stream``).
        """
        if trace is not None or (timeout is not None and timeout < _FIRST_WAIT):
            execution = self.start(allocator, trace)
            if not execution.wait(timeout):
                raise InferTimeout(execution.explain(timeout))
            return only_response(execution)
        run = self._run
        response: InferenceResponse | None = None
        with self._lock:
            mine = not self._running  # else a signal's handler is here, in the midst of another one
            try:
                self._make_ready(allocator)
                error = self._library.native.call_run(self._run_at)
                if error:
                    self._running = False
                    raise self._api.take_error(ctypes.cast(error, Error_p), "TRITONSERVER_ServerInferAsync")
                key, address, time_ns, thread, final, failed = RUN_RESULTS.unpack_from(run, RUN_RESULTS_AT)
                if not key:
                    parents = self._chosen, self._server
                    response = InferenceResponse.came(address, self._library, parents, self._quick, final, time_ns)
                    run.response = None
                    look = self._look
                    if look is None:
                        self._look = look = Look()
                        run.look = look.address
                    elif not failed:
                        response._looked = look.take()
                    if thread not in self._threads:
                        self._answered_on(thread)
                    self._running = False
                    self._idle = True
                    return checked(response) if failed else response
                unfinished = self._collect()
            except BaseException:  # Ctrl-C too
                if mine and self._running:
                    self._interrupted(response)
                raise
        assert unfinished is not None
        if not unfinished.wait(None if timeout is None else timeout - _FIRST_WAIT):
            raise InferTimeout(unfinished.explain(timeout))
        return only_response(unfinished)

    # One native call for a whole request: what comes before it and after it

    def _interrupted(self, response: InferenceResponse | None) -> None:
        """Between a native call and its end: nothing of it stays but an execution that goes on."""
        run = self._run
        if run.response:  # nobody's yet, even if there is an object that has it
            if response is not None:
                response._pointer = None
            pointer = InferenceResponse_p.from_buffer_copy(run, RUN_RESPONSE)
            run.response = None
            self._api.InferenceResponseDelete(pointer)
        elif response is not None:
            response.close()
        self._collect()

    def _make_ready(self, allocator: Allocator | None) -> None:
        """Fills ``_run`` for a native call, in which the request is in flight; the lock is held.

        Raises ClosedError, InFlightError.
        """
        wanted = self._server._default_allocator if allocator is None else allocator
        if self._idle and wanted is not None and wanted is self._chosen:  # as it was left last time
            wanted.pointer  # noqa: B018 - raises when it is closed
            self._idle = False
            self._running = True
            return
        self._own_run()
        if self._execution is not None:
            if not self._execution.done:
                raise InFlightError(_IN_FLIGHT)
            self._put_away(self._execution)
            self._execution = None
        if self._running:
            raise InFlightError(_IN_FLIGHT)
        if self._pointer is None or self._server._pointer is None:
            self.pointer, self._server.pointer  # noqa: B018 - whichever is closed says so
        chosen: Allocator = allocator if allocator is not None else self._server.default_allocator
        run = self._run
        run.allocator, run.allocator_userp = chosen.pointer, chosen.userp
        if chosen is not self._chosen:
            self._chosen = chosen
            self._quick = self._place_aside(chosen)
        run.timeout_ns = _FIRST_WAIT_NS
        self._idle = False
        self._running = True

    def _place_aside(self, chosen: Allocator) -> Quick | None:
        """Where a response with outputs of this allocator may be put aside; the allocator finds it again."""
        if not self._is_found_by(chosen):
            return NOWHERE if getattr(chosen, "reuse", False) else None
        senders = getattr(chosen, "_senders", None)
        if senders is not None:
            senders.add(self)
        return self._run_at, chosen.userp, self._run

    def _is_found_by(self, chosen: Allocator) -> bool:
        """Whether the allocator finds what this puts aside: its server's own one does, and one that keeps a roster."""
        return chosen is self._server._default_allocator or getattr(chosen, "_senders", None) is not None

    def _is_within(self) -> bool:
        """Whether a native call has it now."""
        return self._running or (self._shared and self._run.state >= RUN_TAKEN)

    def _settle(self) -> None:
        """After a native call for many, if it was in that: in flight, or to be sent again; the lock is held."""
        if self._running:
            if self._run.key:
                self._collect()
            else:
                self._share()
            self._running = False

    def _share(self) -> None:
        """From now on native code may take it, to send it as it was sent last; the lock is held."""
        self._shared, self._idle = True, False
        self._library.native.run_leave(self._run, True)

    def _own_run(self, timeout_ns: int = -1) -> bool:
        """The end of that. Waits for the call of many that has it now; False when it takes too long."""
        if self._shared:
            if not self._library.native.run_own(self._run, timeout_ns):
                return False
            self._shared = False
            if self._run.key:
                self._collect()
        return True

    def _collect(self) -> Execution | None:
        """After the native call: the execution that goes on, or None when it was answered or refused."""
        run = self._run
        key = run.key
        if key:
            self._execution = Execution(self._library, key, (self._chosen, self._server))
            run.key = 0  # then: what interrupts this finds it again
        else:
            self._answered_on(run.thread)
        self._running = False
        return self._execution

    def _arrived(self, key: int, thread: int) -> None:
        """The whole answer to the call ``key``, which was posted, came; the call is closed by now."""
        with self._lock:
            if self._posted == key:
                self._awaited_in = None
                self._posted = 0
                self._idle = self._pointer is not None
            else:
                execution = self._execution
                if execution is not None and execution.key == key:
                    self._execution = self._awaited_in = None
        if thread not in self._threads:
            self._answered_on(thread)

    infer_await = infer_await

    def infer_async(
        self, *, allocator: Allocator | None = None, trace: Trace | None = None
    ) -> Future[InferenceResponse]:
        """Runs the request and returns at once. Cancelling the future cancels the request.

        In a coroutine: ``await asyncio.wrap_future(request.infer_async())``.
        """
        return InferFuture(self, self.start(allocator, trace))

    def stream(
        self, *, timeout: float | None = None, allocator: Allocator | None = None, trace: Trace | None = None
    ) -> Iterator[InferenceResponse]:
        """The responses of a decoupled model as they come; ``timeout`` seconds for each. An error response is raised.

        The request is submitted at once. Each response is the caller's to close.
        """
        execution = self.start(allocator, trace)

        def responses() -> Iterator[InferenceResponse]:
            while (response := execution.next(timeout)) is not None:
                yield checked(response)

        return responses()

    def stream_async(
        self, *, allocator: Allocator | None = None, trace: Trace | None = None
    ) -> AsyncIterator[InferenceResponse]:
        """The same for ``async for``. Call it in the event loop's thread."""
        return stream_async(self, self.start(allocator, trace))

    def cancel(self) -> None:
        """Asks Triton to cancel the request; at any time after it was submitted (``...RequestCancel``)."""
        if self._queued_in is not None:
            self._queued_in.flush()
        self._api.InferenceRequestCancel(super().pointer)

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to (``TRITONSERVER_InferenceRequestIsCancelled``)."""
        return bool(self._api.InferenceRequestIsCancelled(super().pointer))

    def close(self) -> None:
        """Deletes the request, or, in flight, cancels it and deletes it as soon as Triton gives it back."""
        with self._lock:
            if self.closed:  # what was closed in flight has an owner that waits for it
                return
            self._own_run()
            self._idle = False
            self._leave_batches()
            execution = self._execution
            if execution is not None and not execution.done:
                held, self._held = self._held, {}
                Abandoned(self._server, self.release(), execution, held)
                return
            if execution is not None:
                self._put_away(execution)
            for thread in self._heard():
                self._server._heard(self.model, thread)
            super().close()
            self._held.clear()

    def _answered_on(self, thread: int) -> None:
        if thread and thread not in self._threads:
            self._threads += (thread,)

    def _heard(self) -> tuple[int, ...]:
        """The threads that the model answered on since this was last asked, in the quick way of ``infer``."""
        threads, self._threads = self._threads, ()
        run = self._run
        if run.thread_count > RUN_THREADS:  # not all are known
            self._server._loaded(self.model)
        return threads + tuple(run.threads[: min(run.thread_count, RUN_THREADS)])

    def release(self) -> Any:
        """Gives the request away: the caller, or Triton, has to delete it. Waits for a native call that has it."""
        with self._lock:
            self._own_run()  # and keeps it: nobody sends what is another's
            self._idle = False
            self._leave_batches()
            return super().release()

    def _leave_batches(self) -> None:
        """What nobody has any more of the responses to this goes, and none is put aside with others' again."""
        while self._batches:
            self._batches[-1].retire()

    def _take(self) -> Any:
        pointer = super()._take()
        if pointer is not None:
            self._library.native.run_clear(self._run, True)
        return pointer

    def _put_away(self, execution: Execution) -> None:
        """The request goes on without it. A future, a coroutine or a stream still gets its answer."""
        self._server._heard(self.model, execution.thread)
        inbox, self._awaited_in = self._awaited_in, None
        if inbox is not None:
            inbox.fetch(execution)
        execution.leave()

    def _dispose(self, pointer: Any) -> None:
        self._api.InferenceRequestDelete(pointer)

    def __del__(self) -> None:
        if not getattr(self, "closed", True) and self.in_flight:
            _forgotten.append((self._held, self._execution))
        super().__del__()


_forgotten: list[object] = []
"""What Triton still uses of requests that were forgotten in flight: a leak is better than memory freed under it."""


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


def checked(response: InferenceResponse) -> InferenceResponse:
    """The response, or its error raised and the response closed."""
    error = response.error
    if error is not None:
        response.close()
        raise error
    return response


def only_response(execution: Execution) -> InferenceResponse:
    """The one response of a finished execution, checked."""
    return checked(the_one(execution))
