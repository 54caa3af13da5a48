"""InferenceRequest: what a model is asked, and the ways to wait for its answer."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ._names import c_name
from ._native import RUN_RESPONSE, RUN_RESULTS, RUN_RESULTS_AT, RUN_TAKEN, RUN_THREADS, Run
from ._types import Error_p, InferenceResponse_p
from .allocator_base import Allocator
from .awaiting import infer_await
from .errors import InFlightError
from .execution import Execution, InferTimeout, checked, only_response
from .many import Batch
from .output import Look
from .pending import Abandoned, InferFuture, stream_async
from .request_content import IN_FLIGHT, RequestContent
from .response import NOWHERE, InferenceResponse, Quick
from .trace import Trace

if TYPE_CHECKING:
    from .awaiting import Inbox
    from .server import Server

_FIRST_WAIT = 0.01  # seconds in one native call with the request's lock held; longer waits can be interrupted
_FIRST_WAIT_NS = int(_FIRST_WAIT * 1e9)


class InferenceRequest(RequestContent):
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
        self._keep: tuple[Any, ...] = ()  # what Triton uses as long as a response is there: allocator, server
        self._quick: Quick | None = None  # where a response with its outputs may be put aside
        self._lock = threading.RLock()  # a stopping server closes requests that other threads are about to start
        super().__init__(pointer, server)
        self._run.server, self._run.request = server.pointer, pointer

    # Where it is

    @property
    def pointer(self) -> Any:
        """The C pointer, while it is ours."""
        if self._is_within() or self.in_flight:
            raise InFlightError(IN_FLIGHT)
        return super().pointer

    @property
    def in_flight(self) -> bool:
        """True from ``start`` until the final response and the release have both come."""
        if self._queued_in is not None:
            self._queued_in.flush()
        if self._is_within() and self._run.key:  # submitted: from now on it can be cancelled
            return True
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
                    self._current = Execution(self._library, key, self._keep)
        elif self._shared and not self._run.state:
            with self._lock:
                self._own_run()
        return self._current

    @_execution.setter
    def _execution(self, execution: Execution | None) -> None:
        self._current = execution
        self._posted = 0

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
            with self._lock:
                execution = self.start(allocator, trace)
                execution.watch(True)  # another thread may use the request before this one has the answer
            return _answer_of(execution, timeout, timeout)
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
                    response = InferenceResponse.came(address, self._library, self._keep, self._quick, final, time_ns)
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
                if unfinished is not None:
                    unfinished.watch(True)  # another thread may use the request before this one has the answer
            except BaseException:  # Ctrl-C too
                if mine and self._running:
                    self._interrupted(response)
                raise
        assert unfinished is not None
        return _answer_of(unfinished, timeout, None if timeout is None else timeout - _FIRST_WAIT)

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
                raise InFlightError(IN_FLIGHT)
            self._put_away(self._execution)
            self._execution = None
        if self._running:
            raise InFlightError(IN_FLIGHT)
        if self._pointer is None or self._server._pointer is None:
            self.pointer, self._server.pointer  # noqa: B018 - whichever is closed says so
        chosen: Allocator = allocator if allocator is not None else self._server.default_allocator
        run = self._run
        run.allocator, run.allocator_userp = chosen.pointer, chosen.userp
        if chosen is not self._chosen:
            self._chosen, self._keep = chosen, (chosen, self._server)
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
        """The end of that. Waits for the call of many that has it now; False when it takes too long.

        InFlightError in a signal's handler, when that call is of the thread that it interrupted.
        """
        if self._shared:
            if not self._library.native.run_own(self._run, timeout_ns):
                if timeout_ns < 0:
                    raise InFlightError(IN_FLIGHT)
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
            self._execution = Execution(self._library, key, self._keep)
            run.key = 0  # then: what interrupts this finds it again
        else:
            self._answered_on(run.thread)
        self._running = False
        return self._execution

    def _go_on(self) -> Execution:
        """The execution of what native code sent and has still, so that no other thread does."""
        self._current = execution = Execution(self._library, self._run.key, self._keep)
        self._posted = 0
        self._run.key = 0
        return execution

    def _arrived(self, key: int, thread: int) -> None:
        """The whole answer to the call ``key``, which was posted, came; the call is closed by now."""
        with self._lock:
            if self._posted == key:
                self._posted = 0
                self._awaited_in = None
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
        for batch in tuple(self._batches):
            batch.retire()

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


def _answer_of(execution: Execution, timeout: float | None, left: float | None) -> InferenceResponse:
    """The one response of an execution that is watched; ``left`` seconds of ``timeout`` are left."""
    try:
        if not execution.wait(left):
            raise InferTimeout(execution.explain(timeout))
        return only_response(execution)
    finally:
        execution.watch(False)


_forgotten: list[object] = []
"""What Triton still uses of requests that were forgotten in flight: a leak is better than memory freed under it."""
