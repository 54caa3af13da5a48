"""Requests awaited in an event loop: what is done comes through one descriptor that the loop watches."""

from __future__ import annotations

import asyncio
import ctypes
import struct
import threading
import weakref
from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ._library import Library
from ._native import Answer
from ._types import Error_p
from .allocator_base import Allocator
from .errors import Error
from .execution import Execution, the_one
from .response import InferenceResponse

if TYPE_CHECKING:
    from .request import InferenceRequest

_BATCH = 64
_ANSWER = struct.Struct("PqqII")  # struct tc_answer
_Future = asyncio.Future[InferenceResponse]
_SEVERAL = 4  # answers at once, from which on requests are submitted together
_TOGETHER = 64

_Entry = list[Any]
"""One request on its way; its future, or None when nobody waits any more; what its response is made of, since by then
the request may be on its way again with another allocator; and the response, once there is one."""


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
        self._entries: list[_Entry | None] = []  # of the answers that are being delivered
        self._collecting = False  # the keys are those of such
        self._waiting: dict[int, _Entry] = {}
        self._lock = threading.RLock()  # other threads may ask for a request that is in the queue
        self._queue: list[_Entry] = []
        self._runs = (ctypes.c_void_p * _TOGETHER)()
        self._errors = (ctypes.c_void_p * _TOGETHER)()
        self._several = False
        weakref.finalize(self, self._native.inbox_close, self.pointer)
        loop.add_reader(descriptor.value, self._drain)

    def post(self, request: InferenceRequest, allocator: Allocator | None, future: _Future) -> _Entry:
        """Submits the request, soon; the future gets its response. In the loop's thread.

        Where answers come by the dozen, requests are submitted so: with one at a time each wakes a thread of Triton's,
        which takes this one's core, and nothing goes on side by side.
        """
        entry: _Entry = []
        with request._lock:
            request._make_ready(allocator)
            try:
                entry = [request, future, request._keep, request._quick, None]
                if not self._several:
                    with self._lock:
                        errors = self._submit([entry])
                    for error in errors:
                        raise self._refusal(error)
                    return entry
                # Without the queue's lock: who takes what is in it looks again whether more came. In this order: an
                # interrupt leaves none that nobody takes, and whoever sees that the request is queued finds it there.
                queue = self._queue
                if not queue:
                    loop = self._loop()
                    assert loop is not None
                    loop.call_soon(self.flush)
                queue.append(entry)
                request._queued_in = self
                if len(queue) >= _TOGETHER:
                    self.flush()
                return entry
            except BaseException:
                self._drop(request, entry)
                raise

    def _drop(self, request: InferenceRequest, entry: _Entry) -> None:
        """It is not sent, if it was not yet; else nobody waits for it."""
        entry[1:2] = [None]
        with self._lock:
            if entry in self._queue:
                self._queue.remove(entry)
            if request._running and not request._posted:
                request._queued_in = None
                request._running, request._idle = False, request._pointer is not None

    def flush(self) -> None:
        """Submits what is queued. On any thread."""
        try:
            with self._lock:
                while self._queue:
                    queue = self._queue[:_TOGETHER]
                    if self._submit(queue):
                        self._tell(queue)
        except BaseException:  # a signal's handler's, and for others than those who wait for this
            loop = self._loop()
            if self._queue and loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self.flush)
            raise

    def _submit(self, entries: list[_Entry]) -> list[int]:
        """The native call; the lock is held. Returns errors' addresses, if there are any."""
        count, refused = len(entries), 0
        keys = (ctypes.c_uint64 * count)()
        self._runs[:count] = [entry[0]._run_at for entry in entries]
        ctypes.memset(self._errors, 0, ctypes.sizeof(self._errors))
        try:
            refused = self._native.calls_post(self._runs, keys, self._errors, count, self.pointer)
            self._note(entries, keys)
        except BaseException:
            self._note(entries, keys)
            raise
        return [error for error in self._errors[:count] if error] if refused else []

    def _note(self, entries: list[_Entry], keys: Any) -> None:
        """Each is in flight or refused now. Neither: an interrupt came before the call, and they are as they were.

        Once more is no harm.
        """
        waiting, sent = self._waiting, False
        for entry, key, error in zip(entries, keys[:], self._errors[: len(entries)], strict=True):
            if not key and not error:
                continue
            sent = True
            request = entry[0]
            if key:
                waiting[key] = entry
                request._awaited_in = self
            request._posted = key
            request._running = False
            request._queued_in = None
        if sent and self._queue and self._queue[0] is entries[0]:
            del self._queue[: len(entries)]

    def _tell(self, entries: list[_Entry]) -> None:
        """Of what was refused."""
        loop = self._loop()
        for (_, future, *_), error in zip(entries, self._errors, strict=False):
            if error:
                failure = self._refusal(error)
                if future is not None and loop is not None and not loop.is_closed():
                    loop.call_soon_threadsafe(_fail, future, failure)

    def fetch(self, execution: Execution) -> None:
        """The answer of a call that is done, before its turn: the request is used again. On any thread."""
        loop = self._loop()
        with self._lock:
            entry = self._waiting.pop(execution.key, None)
            if entry is None or entry[1] is None or loop is None or loop.is_closed():
                return
            outcome = _outcome(execution)  # before it is collected with others, for which there is no entry any more
        if asyncio._get_running_loop() is loop:  # at once: a loop that ends forgets what it was to call
            _settle(entry[1], *outcome)
        else:
            loop.call_soon_threadsafe(_settle, entry[1], *outcome)

    def abandon(self) -> None:
        """The loop is closed: nobody waits any more."""
        with self._lock:
            for entry in (*self._waiting.values(), *self._queue):
                entry[1] = None

    def _refusal(self, error: int) -> Exception:
        return self._library.api.take_error(ctypes.cast(error, Error_p), "TRITONSERVER_ServerInferAsync")

    def _drain(self) -> None:
        """Delivers what came, in the loop. What a signal's handler raises meanwhile keeps nobody's answer from him."""
        again = self._collecting
        try:
            if again:
                self._collect_again()
            else:
                self._collect()
            self._deliver_all(again)
        except BaseException:
            loop = self._loop()
            if self._collecting and loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._drain)
            raise

    def _deliver_all(self, again: bool) -> None:
        """``again``: an interrupt came in the midst of it."""
        entries = self._entries
        count = len(entries)
        self._several = count >= _SEVERAL
        library, came = self._library, InferenceResponse.came
        # A list: an iterator that an interrupt leaves behind has a hold on the array.
        answers = list(_ANSWER.iter_unpack(self._bytes[: count * _ANSWER.size]))
        keys = self._keys[:count]
        rows = zip(keys, entries, answers, strict=True)
        if again:
            for number, row in enumerate(rows):
                self._deliver(number, *row)
        # The rule, in few steps; if again, none is left.
        for key, entry, (address, time_ns, thread, final, failed) in rows:
            if entry is None or failed or not address:
                number = keys.index(key)
                self._deliver(number, key, entry, answers[number])
                continue
            request, future, keep, quick, _ = entry
            request._arrived(key, thread)
            entry[4] = response = came(address, library, keep, quick, final, time_ns)
            if future is None or future.done():  # cancelled
                response.close()
            else:
                future.set_result(response)
        self._collecting = False  # first: without entries these would be collected again
        entries.clear()

    def _collect(self) -> None:
        with self._lock:
            self._entries.clear()
            ctypes.memset(self._keys, 0, ctypes.sizeof(self._keys))
            self._collecting = True
            count = self._native.inbox_collect(self.pointer, self._keys, self._answers, _BATCH)
            self._entries[:] = map(self._waiting.pop, self._keys[:count], repeat(None))

    def _collect_again(self) -> None:
        """What is left of that after an interrupt."""
        with self._lock:
            if not self._entries:
                self._entries[:] = map(self._waiting.pop, filter(None, self._keys), repeat(None))

    def _deliver(self, number: int, key: int, entry: _Entry | None, answer: Any) -> None:
        """One of them; of what was done already, nothing is done again."""
        address, time_ns, thread, final, failed = answer
        if entry is None:  # nobody's: an interrupt came before it was written down
            self._native.answers_delete(ctypes.byref(self._answers, number * _ANSWER.size), 1)
            return
        request, future, keep, quick, response = entry
        if not address:
            if future is not None and not future.done():
                _settle(future, *_outcome(Execution(self._library, key, keep)))
            return
        request._arrived(key, thread)
        if response is None:
            entry[4] = response = InferenceResponse.came(address, self._library, keep, quick, final, time_ns)
        if failed:
            error = None if response.closed else response.error
            response.close()
            _settle(future, None, error or Error("the answer was lost in an interrupt"))
        elif future is None or not future.done() or future.cancelled() or future.exception() is not None:
            _settle(future, response, None)
        # Else it has the response already: nobody else settles it.


def _outcome(execution: Execution) -> tuple[InferenceResponse | None, Error | None]:
    """The one response of a finished execution, or what is wrong with it."""
    response = None
    try:
        response = the_one(execution)
        response.raise_for_error()
    except Error as error:
        if response is not None:
            response.close()
        return None, error
    return response, None


def _settle(future: _Future | None, response: InferenceResponse | None, error: Error | None) -> None:
    """What came goes to the future; without one, or when it was cancelled, to nobody."""
    if error is not None:
        if future is not None:
            _fail(future, error)
    elif response is not None:
        if future is None or future.done():
            response.close()
        else:
            future.set_result(response)


def _fail(future: _Future, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


_inboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Inbox] = weakref.WeakKeyDictionary()


class _Latest(threading.local):
    """The inbox that this thread used last, if there still is one: looking it up anew takes longer."""

    inbox: Callable[[], Inbox | None] = staticmethod(lambda: None)


_latest = _Latest()


def _inbox(loop: asyncio.AbstractEventLoop, library: Library) -> Inbox:
    inbox = _inboxes.get(loop)
    if inbox is None:
        for other, box in list(_inboxes.items()):
            if other.is_closed():  # with tasks that waited, which would keep it for ever
                box.abandon()
        inbox = _inboxes[loop] = Inbox(loop, library)
    _latest.inbox = weakref.ref(inbox)
    return inbox


async def infer_await(self: InferenceRequest, *, allocator: Allocator | None = None) -> InferenceResponse:
    """Runs the request in a coroutine; errors as for ``infer``. Cancelling the task cancels the request.

    The quickest way in asyncio: no thread and no future of another kind lies between Triton and the event loop, which
    must be able to watch descriptors (``loop.add_reader``).
    """
    loop = asyncio.get_running_loop()
    inbox = _latest.inbox()
    if inbox is None or inbox._loop() is not loop:
        inbox = _inbox(loop, self._library)
    future: _Future = loop.create_future()
    entry = inbox.post(self, allocator, future)
    try:
        return await future
    except asyncio.CancelledError:
        entry[1] = None  # which would keep its loop alive, and the inbox with it
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().close()  # it came in the moment of the cancellation
        elif self.in_flight and not self.closed:
            self.cancel()
        raise
