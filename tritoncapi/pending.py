"""Requests that nobody waits for in person: futures, asynchronous streams, requests closed in flight."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .dispatcher import dispatcher
from .errors import Error
from .execution import Execution, checked, only_response
from .response import InferenceResponse

if TYPE_CHECKING:
    import asyncio

    from .request import InferenceRequest
    from .server import Server


class InferFuture(Future[InferenceResponse]):
    """The one response of a request. ``cancel()`` cancels the request too; a late answer is then thrown away."""

    def __init__(self, request: InferenceRequest, execution: Execution) -> None:
        super().__init__()
        self._request = request
        self._execution = execution
        dispatcher(request._library).watch(execution, self._look, request._server)

    def cancel(self) -> bool:
        """Cancels the future and the request. False when it is already done."""
        cancelled = super().cancel()
        if cancelled and not self._request.closed:
            self._request.cancel()
        return cancelled

    def _look(self) -> bool:

        if not self._execution.done:
            return False
        try:
            response = only_response(self._execution)
        except Error as error:
            with suppress(InvalidStateError):  # it was cancelled meanwhile
                self.set_exception(error)
            return True
        try:
            self.set_result(response)
        except InvalidStateError:
            response.close()
        return True


async def stream_async(request: InferenceRequest, execution: Execution) -> AsyncIterator[InferenceResponse]:
    """The responses of a submitted request as they come; see ``InferenceRequest.stream_async``."""
    import asyncio  # noqa: PLC0415 - takes longer than all of ours; who is in an event loop has it already

    handover = _Handover(asyncio.get_running_loop(), asyncio.Event())

    def look() -> bool:
        done = execution.done  # before polling: what comes in between has a notice of its own
        while (response := execution.poll()) is not None:
            handover.put(response)
        if done:
            handover.put(None)
        return done

    dispatcher(request._library).watch(execution, look, request._server)
    try:
        while (response := await handover.get()) is not None:
            yield checked(response)
    finally:
        handover.end()
        if not execution.done and not request.closed:
            request.cancel()


class _Handover:
    """Responses on their way from the dispatcher's thread into an event loop; those that nobody takes are closed.

    They wait here, not in callbacks of the loop: a loop that ends forgets those that it has not run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, came: asyncio.Event) -> None:
        self._loop = loop
        self._came = came
        self._lock = threading.Lock()
        self._waiting: deque[InferenceResponse | None] = deque()
        self._ended = False

    def put(self, response: InferenceResponse | None) -> None:
        """On any thread. None is the end."""
        with self._lock:
            self._waiting.append(response)
            ended = self._ended
        try:
            if not ended:
                self._loop.call_soon_threadsafe(self._came.set)
        except RuntimeError:  # the loop is closed
            ended = True
        if ended:
            self.end()

    async def get(self) -> InferenceResponse | None:
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        return self._waiting.popleft()

    def end(self) -> None:
        """On any thread: nobody listens any more."""
        with self._lock:
            self._ended = True
            left, self._waiting = self._waiting, deque()
        for response in left:
            if response is not None:
                response.close()


class Abandoned:
    """A request that was closed in flight: cancelled, and deleted when Triton gives it back."""

    def __init__(self, server: Server, pointer: Any, execution: Execution, held: object) -> None:
        self._api = server.library.api
        self._pointer = pointer
        self._execution = execution
        self._held = held
        if server.library.api_version >= (1, 25):
            with suppress(Error):  # answered in this moment, or cannot be cancelled: it comes back all the same
                self._api.InferenceRequestCancel(pointer)
        dispatcher(server.library).watch(execution, self._look, server)

    def _look(self) -> bool:
        # Released without an answer is ours again too: the model dropped it.
        if not self._execution.done and not self._execution.released:
            return False
        self._execution.forget()
        self._api.InferenceRequestDelete(self._pointer)
        return True
