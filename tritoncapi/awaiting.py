"""Requests awaited in an event loop: what is done comes through one descriptor that the loop watches."""

from __future__ import annotations

import asyncio
import ctypes
import struct
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._library import Library
from ._native import Answer
from ._types import Error_p, InferenceResponse_p
from .allocator import Allocator
from .errors import Error
from .execution import Execution
from .many import the_one
from .response import InferenceResponse

if TYPE_CHECKING:
    from .request import InferenceRequest

_BATCH = 64
_ANSWER = struct.Struct("PqqII")  # struct tc_answer
_Future = asyncio.Future[InferenceResponse]
_Entry = tuple["_Future | None", "InferenceRequest", Allocator]


class Inbox:
    """One event loop's. It goes with the loop; what is still out then is closed like any request in flight."""

    def __init__(self, loop: asyncio.AbstractEventLoop, library: Library) -> None:
        self._loop = weakref.ref(loop)
        self._library = library
        self._native = library.native
        descriptor = ctypes.c_int()
        self.pointer = self._native.inbox_new(ctypes.byref(descriptor))
        if not self.pointer:
            raise OSError("no descriptor for an event loop's inbox")
        self._keys = (ctypes.c_uint64 * _BATCH)()
        self._answers = (Answer * _BATCH)()
        self._bytes = memoryview(self._answers).cast("B")
        self._waiting: dict[int, _Entry] = {}
        weakref.finalize(self, self._native.inbox_close, self.pointer)
        loop.add_reader(descriptor.value, self._drain)

    def post(self, request: InferenceRequest, allocator: Allocator | None, future: _Future) -> int:
        """Submits the request; the future gets its response. In the loop's thread. Returns the call's key."""
        with request._lock:
            chosen = request._make_ready(allocator)
            try:
                error = self._native.call_post(request._run_at, self.pointer)
            finally:
                # In flight or refused; Ctrl-C in between finds it in flight.
                key = request._collect_posted()
            if error:
                raise self._library.api.take_error(ctypes.cast(error, Error_p), "TRITONSERVER_ServerInferAsync")
            self._waiting[key] = future, request, chosen
            return key

    def forget(self, key: int) -> None:
        """Nobody waits for the response any more. A future left here would keep its loop alive, and this with it."""
        entry = self._waiting.get(key)
        if entry is not None:
            self._waiting[key] = None, *entry[1:]

    def _drain(self) -> None:
        count = self._native.inbox_collect(self.pointer, self._keys, self._answers, _BATCH)
        answers = _ANSWER.iter_unpack(self._bytes[: count * _ANSWER.size])
        for number, (key, answer) in enumerate(zip(self._keys[:count], answers, strict=True)):
            entry = self._waiting.pop(key, None)
            if entry is None:  # Ctrl-C came before it was written down
                self._native.answers_delete(ctypes.byref(self._answers[number]), 1)
                continue
            future, request, chosen = entry
            address, time_ns, thread, final, failed = answer
            response: InferenceResponse | None = None
            try:
                if address:
                    request._arrived(key, thread)
                    response = InferenceResponse(
                        InferenceResponse_p.from_buffer_copy(self._answers, number * _ANSWER.size),
                        *(self._library, chosen, request._server),
                        final=final != 0,
                        time_ns=time_ns,
                        quick=chosen is request._server._default_allocator,
                    )
                else:
                    response = the_one(Execution(self._library, key, (chosen, request._server)))
                if failed or not address:
                    response.raise_for_error()
            except Error as error:
                if response is not None:
                    response.close()
                if future is not None and not future.done():
                    future.set_exception(error)
                continue
            if future is None or future.done():  # it was cancelled
                response.close()
            else:
                future.set_result(response)


_inboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Inbox] = weakref.WeakKeyDictionary()


class _Latest(threading.local):
    """The inbox that this thread used last, if there still is one: looking it up anew takes longer."""

    inbox: Callable[[], Inbox | None] = staticmethod(lambda: None)


_latest = _Latest()


def _inbox(loop: asyncio.AbstractEventLoop, library: Library) -> Inbox:
    inbox = _latest.inbox()
    if inbox is None or inbox._loop() is not loop:
        inbox = _inboxes.get(loop)
        if inbox is None:
            inbox = _inboxes[loop] = Inbox(loop, library)
        _latest.inbox = weakref.ref(inbox)
    return inbox


async def infer_await(request: InferenceRequest, allocator: Allocator | None) -> InferenceResponse:
    """See ``InferenceRequest.infer_await``."""
    loop = asyncio.get_running_loop()
    inbox = _inbox(loop, request._library)
    future: _Future = loop.create_future()
    key = inbox.post(request, allocator, future)
    try:
        return await future
    except asyncio.CancelledError:
        inbox.forget(key)
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().close()  # it came in the moment of the cancellation
        elif request.in_flight and not request.closed:
            request.cancel()
        raise
