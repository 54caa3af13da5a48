"""infer_many: many prepared requests, submitted and collected in one native call."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from ._handle import _taking
from ._native import NOT_KEPT, NOT_READY, NOT_WHOLE, Answer, Many, Native
from ._types import Error_p
from .allocator_base import Allocator
from .errors import Error, InFlightError, TritonError
from .execution import Execution, InferTimeout, the_one
from .response import InferenceResponse

if TYPE_CHECKING:
    from .request import InferenceRequest
    from .server import Server

_CLOSED = "these responses are closed"
_USED = "another thread uses one of these requests"
_take_lock, _let_lock_go = methodcaller("acquire", False), methodcaller("release")
_SLICE = 0.1  # seconds between looks at pending signals
_SLICE_NS = int(_SLICE * 1e9)
_SPARE = 4  # idle sendings of a batch
_MOST = 8  # batches that a request is in, each of which may keep a response to it


class Responses(Sequence[InferenceResponse]):
    """One response for each request, in their order. Close them together, best by ``with``.

    An error response is a response here: look at its ``error``, or call ``raise_for_error``. Each is made when it is
    asked for; closing this closes all.
    """

    __slots__ = ("__weakref__", "_batch", "_made", "_sending", "_server")

    def __init__(self, server: Server, batch: Batch, sending: _Sending) -> None:
        self._sending: _Sending | None = sending
        self._server = server
        self._batch = batch
        #: Those that were asked for. None: none was, and all may stay where they are when this is closed.
        self._made: dict[int, InferenceResponse] | None = None
        sending.closed = False

    def __len__(self) -> int:
        return len(self._batch.requests)

    @overload
    def __getitem__(self, index: int) -> InferenceResponse: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[InferenceResponse]: ...

    def __getitem__(self, index: int | slice) -> InferenceResponse | Sequence[InferenceResponse]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        made = self._made
        found = made.get(number) if made is not None else None
        return found if found is not None else self._make(number)

    def _make(self, number: int) -> InferenceResponse:
        server, batch = self._server, self._batch
        parents = batch.chosen, server
        request = batch.requests[number]  # which may have been sent with another allocator since
        quick = (request._run_at, batch.userp, request._run) if batch.quick else None
        with _taking:  # another thread may want it too
            made = self._made
            if made is None:
                made = self._made = {}
            found = made.get(number)
            if found is None:
                sending = self._sending
                if sending is None:
                    raise Error(_CLOSED)
                answer = sending.answers[number]
                address, answer.response = answer.response, None  # without a call: the array's, or this one's to delete
                found = InferenceResponse.came(address, server.library, parents, quick, answer.final, answer.time_ns)
                made[number] = found
                if self._sending is None:  # another thread closed it meanwhile
                    found.close()
                    raise Error(_CLOSED)
        return found

    def __iter__(self) -> Iterator[InferenceResponse]:
        return (self[number] for number in range(len(self)))

    @property
    def failed(self) -> list[int]:
        """Numbers of the requests that were answered with an error."""
        return [number for number, answer in enumerate(self._answers()) if answer.failed]

    def raise_for_error(self) -> Responses:
        """Raises the first error there is; returns the responses."""
        for number in self.failed:
            self[number].raise_for_error()
        return self

    def close(self) -> None:
        """Closes all (``TRITONSERVER_InferenceResponseDelete``). Closing again does nothing."""
        sending, self._sending = self._sending, None
        if sending is None:
            return
        batch, made = self._batch, self._made
        if made is None:
            # Where nobody looked, each goes when its successor comes: no native call, while no model works.
            sending.closed = True
            if batch.idle:
                batch.rest(sending)
            else:
                batch.idle.append(sending)
                if batch.over:
                    batch.clear()
            return
        self._made = None
        try:
            error = _close_some(batch, made, sending)
        except BaseException:  # Ctrl-C: it goes on to whom it was meant for, but not before these are gone
            with suppress(TritonError):
                _close_made(made, sending)
            batch.delete(sending.at)
            raise
        sending.closed = True
        batch.rest(sending)
        if error is not None:
            raise self._server.library.api.take_error(
                ctypes.cast(error, Error_p), "TRITONSERVER_InferenceResponseDelete"
            )

    def _answers(self) -> Any:
        if self._sending is None:
            raise Error(_CLOSED)
        return self._sending.answers

    def __enter__(self) -> Responses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close_some(batch: Batch, made: dict[int, InferenceResponse], sending: _Sending) -> int | None:
    """Closes these, and the others that the answers have. Returns an error's address, or None."""
    _close_made(made, sending)
    left = not batch.quick or batch.put_aside(sending.at)
    return batch.delete(sending.at) if left else None


def _close_made(made: dict[int, InferenceResponse], sending: _Sending) -> None:
    for number, response in made.items():
        sending.answers[number].response = None  # the response's to delete, if an interrupt left both with it
        response.close()


class Batch:
    """Requests that were sent together, with what native code needs to send them so again.

    Answers of ``idle`` sendings may have responses that were closed: whoever has a request of these finds them by its
    ``_batches``.
    """

    def __init__(self, native: Native, requests: list[InferenceRequest], chosen: Allocator) -> None:
        for request in requests:
            if getattr(request, "noun", "") != "inference request":
                raise TypeError(f"infer_many() takes InferenceRequests, not {type(request).__name__}")
        self.requests = requests
        self.chosen = chosen
        self.quick = bool(requests) and all(request._is_found_by(chosen) for request in requests)
        self.userp = chosen.userp
        self.runs = (ctypes.c_void_p * len(requests))(*[request._run_at for request in requests])
        self.run, self.let_go = native.many_run, native.many_let_go
        self.put_aside, self.delete = native.many_put_aside, native.many_delete
        self.idle: list[_Sending] = []
        self.over = False  # it is not sent again

    def enter(self) -> None:
        """From now on its requests know it, and the first one that it is to be sent so again."""
        first = self.requests[0]
        if first._batch is self or self.over:
            return
        if first._batch is not None:
            first._batch.retire()
        for request in self.requests:
            for batch in request._batches[: 1 - _MOST]:
                batch.retire()
            request._batches.append(self)
        first._batch = self

    def rest(self, sending: _Sending) -> None:
        """It may have responses that were closed; those of one idle sending stay."""
        last = self.idle[-1:]
        if last and last[0].closed:
            self.delete(sending.at)
            sending.closed = False
            if len(self.idle) < _SPARE:
                self.idle.insert(0, sending)
        else:
            self.idle.append(sending)
        if self.over:
            self.clear()

    def retire(self) -> None:
        """The end of it: one of its requests goes, is the first of others, or in too many."""
        self.over = True
        if self.requests[0]._batch is self:
            self.requests[0]._batch = None
        for request in self.requests:
            with suppress(ValueError):
                request._batches.remove(self)
        self.clear()

    def clear(self) -> None:
        """Deletes the responses that were closed."""
        cleared = []
        while self.idle:
            with suppress(IndexError):  # another thread's now
                sending = self.idle.pop()
                self.delete(sending.at)
                sending.closed = False
                cleared.append(sending)
        if not self.over:
            self.idle += cleared[: max(0, _SPARE - len(self.idle))]  # meanwhile others were made


class _Sending:
    """What one native call needs; used by one thread at a time.

    Idle, it has the usual time-out; and responses, if it has any, that were closed.
    """

    __slots__ = ("answers", "at", "calls", "closed", "delete", "many", "waiting")

    def __init__(self, batch: Batch) -> None:
        count = len(batch.requests)
        self.closed = False
        self.waiting: list[tuple[int, Execution]] = []  # numbers and executions of those that take longer
        self.delete = batch.delete
        self.answers: Any = (Answer * count)()
        self.calls = (ctypes.c_void_p * count)()
        self.many = Many(
            *(ctypes.addressof(batch.runs), ctypes.addressof(self.answers), ctypes.addressof(self.calls)),
            *(count, batch.userp if batch.quick else None),
            *(batch.chosen.pointer, batch.userp),
            *(_SLICE_NS, True),
        )
        self.at = ctypes.addressof(self.many)

    def __del__(self) -> None:
        answers = getattr(self, "answers", ())
        if not any(answer.response for answer in answers):
            return
        if not self.closed:
            warnings.warn(f"unclosed responses of {len(answers)} requests", ResourceWarning, source=self, stacklevel=2)
        elif not sys.is_finalizing():
            self.delete(self.at)


def infer_many(
    server: Server, listed: list[InferenceRequest], timeout: float | None, allocator: Allocator | None
) -> Responses:
    """``Server.infer_many`` of whatever they are."""
    server.pointer  # noqa: B018 - raises when it is closed, as the next one does
    chosen: Allocator = allocator if allocator is not None else server.default_allocator
    chosen.pointer  # noqa: B018
    began = time.monotonic() if timeout is not None else 0.0
    batch: Batch | None = getattr(listed[0], "_batch", None) if listed else None
    known = batch is not None and batch.chosen is chosen and batch.requests == listed
    if batch is None or not known:
        batch = Batch(server.library.native, listed, chosen)
    try:
        sending = batch.idle.pop()
    except IndexError:
        sending = _Sending(batch)
    responses: Responses | None = None
    try:
        if timeout is not None:
            sending.many.timeout_ns = max(0, int(min(_SLICE, timeout) * 1e9))
        waiting = left_of(server, batch, sending, batch.run(sending.at)) if known else None
        if waiting is None:
            waiting = _send_anew(server, batch, sending)
        sending.many.timeout_ns = _SLICE_NS
        responses = Responses(server, batch, sending)
        return waited_for(responses, waiting, timeout, began)
    except BaseException:  # Ctrl-C too
        batch.let_go(sending.at)
        drop(responses, batch, sending)
        raise


def waited_for(
    responses: Responses, waiting: list[tuple[int, Execution]], timeout: float | None, began: float
) -> Responses:
    """Those that take longer: waits for them."""
    made = responses._made = {}
    answers = responses._answers()
    try:
        for number, execution in waiting:
            left = None if timeout is None else max(0.0, began + timeout - time.monotonic())
            if not execution.wait(left):
                raise InferTimeout(execution.explain(timeout))
            made[number] = response = the_one(execution)
            answers[number].failed = response.error is not None
        return responses
    finally:
        unwatch(waiting)


def unwatch(waiting: list[tuple[int, Execution]]) -> None:
    """Their answers were taken, or nobody takes them any more."""
    while waiting:
        waiting[-1][1].watch(False)
        waiting.pop()


def drop(responses: Responses | None, batch: Batch, sending: _Sending) -> None:
    """Whatever came goes."""
    unwatch(sending.waiting)
    if responses is not None:
        responses.close()
        return
    sending.many.timeout_ns, sending.many.unfinished, sending.many.ready = _SLICE_NS, 0, True
    batch.delete(sending.at)
    batch.idle.append(sending)


def _send_anew(server: Server, batch: Batch, sending: _Sending) -> list[tuple[int, Execution]]:
    """Makes the requests ready, one by one, and sends them. Those that are answered may then be taken as they are."""
    requests = batch.requests
    if len(set(map(id, requests))) != len(requests):
        raise ValueError("a request can be sent only once at a time")
    held: list[threading.RLock] = []
    interrupt: BaseException | None = None
    try:
        # Not waited for: who has it has it in flight, or closes it. One step: an interrupt finds all noted, or none.
        held.extend(filter(_take_lock, [request._lock for request in requests]))
        if len(held) < len(requests):
            raise InFlightError(_USED)
        for request in requests:
            if not request._own_run(0):
                raise InFlightError(_USED)
            request._make_ready(batch.chosen)
        sending.many.ready = False
        found = left_of(server, batch, sending, batch.run(sending.at))
        assert found is not None
        sending.many.unfinished = 0
        sending.many.ready = True
        if requests:
            batch.enter()
        return found
    finally:
        # Whatever interrupts this, and then that goes on: an interrupt is looked for after each call.
        while held:
            try:
                _give_back(requests, held)
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _give_back(requests: list[InferenceRequest], held: list[threading.RLock]) -> None:
    """Settles what was sent, if it was, and lets the locks go."""
    if len(held) == len(requests):
        for request in requests:
            request._settle()
    with suppress(IndexError):  # at the end
        deque(map(_let_lock_go, iter(held.pop, None)), 0)  # one step: none is let go twice


def left_of(server: Server, batch: Batch, sending: _Sending, found: int | None) -> list[tuple[int, Execution]] | None:
    """After the native call, which found this: those that take longer, with their numbers; None: not all were ready."""
    many = sending.many
    waiting = sending.waiting = []
    if many.unfinished:
        answers = sending.answers
        for number, request in enumerate(batch.requests[: many.submitted]):
            if not answers[number].response:  # else any thread may have it by now
                execution = request._go_on() if many.ready else request._collect()
                assert execution is not None
                waiting.append((number, execution))
                execution.watch(True)  # who uses the request before its answer is taken does not end it
        batch.let_go(sending.at)
    if found not in (None, NOT_WHOLE, NOT_KEPT):
        raise server.library.api.take_error(ctypes.cast(found, Error_p), "TRITONSERVER_ServerInferAsync")
    return None if many.submitted == NOT_READY else waiting
