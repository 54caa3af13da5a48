"""Execution: one submitted request until its final response and its release have both come."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Any

from ._library import Library
from ._native import Event, State
from ._types import ResponseCompleteFlag
from .errors import Error
from .response import InferenceResponse

_SLICE = 0.1  # seconds between looks at pending signals while a call waits


class InferTimeout(Error, TimeoutError):
    """No answer came in time. The request is still in flight; closing it cancels it and frees it when it comes back."""


@dataclass(frozen=True)
class Progress:
    """What an execution has seen so far. Times are ns of CLOCK_MONOTONIC, 0 while it has not happened."""

    responses: int = 0
    finals: int = 0
    releases: int = 0
    reschedules: int = 0
    waiting: int = 0
    done: bool = False
    start_ns: int = 0
    first_response_ns: int = 0
    final_ns: int = 0
    release_ns: int = 0
    thread: int = 0


_NOTHING = State()  # so many bytes need not be had for each that is in flight


class Execution:
    """Made by ``InferenceRequest.start()``. Triton's callbacks end in native code; here one waits for what they filed.

    The request's next use, and its ``close()``, end it; responses that nobody took by then are deleted.

    ``keep`` are the objects that Triton uses until the last response is deleted: allocator, server.
    """

    __slots__ = ("__weakref__", "_forgotten", "_keep", "_left", "_library", "_state", "_watched", "key")

    def __init__(self, library: Library, key: int, keep: tuple[object, ...]) -> None:
        self._library = library
        self.key = key
        self._keep = keep
        self._state = _NOTHING
        self._forgotten = False
        self._watched = self._left = False

    @property
    def progress(self) -> Progress:
        """What has come so far."""
        self._look(0, until_done=True)
        state = self._state
        values: dict[str, Any] = {name: getattr(state, name) for name, *_ in State._fields_}
        return Progress(**{**values, "done": bool(state.done)})

    @property
    def thread(self) -> int:
        """The kernel's id of the thread that the last callback came on, 0 before the first."""
        self._look(0, until_done=True)
        return int(self._state.thread)

    @property
    def done(self) -> bool:
        """True when the final response and the release have both come: the request may be used again."""
        return self._look(0, until_done=True)

    @property
    def released(self) -> bool:
        """True when Triton gave the request back, whether or not it was answered."""
        self._look(0, until_done=True)
        return bool(self._state.releases)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until ``done``, for ``timeout`` seconds at most; returns it."""
        return self._wait(timeout, until_done=True)

    def next(self, timeout: float | None = None) -> InferenceResponse | None:
        """The next response, or None when there are no more. Raises InferTimeout when none comes in time.

        An error response is a response here: look at its ``error``.
        """
        if not self._wait(timeout, until_done=False):
            raise InferTimeout(self.explain(timeout))
        response = self.poll()
        while response is None and not self.done:  # what came was a final flag without a response
            if not self._wait(timeout, until_done=True):
                raise InferTimeout(self.explain(timeout))
            response = self.poll()
        return response

    def poll(self) -> InferenceResponse | None:
        """A response that is already there, or None."""
        event = Event()
        while self._library.native.call_take(self.key, ctypes.byref(event)) == 1:
            if event.response:
                final = bool(event.flags & ResponseCompleteFlag.FINAL)
                return InferenceResponse(event.response, self._library, *self._keep, final=final, time_ns=event.time_ns)
        return None

    def forget(self) -> None:
        """Drops the native call; responses that nobody took are deleted. Only when ``done`` or ``released``."""
        if not self._forgotten:
            self._look(0, until_done=True)
            self._forgotten = True
            self._library.native.call_close(self.key)

    def leave(self) -> None:
        """The request goes on without it: forgotten, as soon as no future or stream is to take its responses."""
        self._left = True
        if not self._watched:
            self.forget()

    def watch(self, watched: bool) -> None:
        """Whether the dispatcher watches it, for a future or a stream."""
        self._watched = watched
        if self._left and not watched:
            self.forget()

    def _look(self, nanoseconds: int, *, until_done: bool) -> bool:
        if self._forgotten:
            return True
        state = State()
        met: int = self._library.native.call_wait(self.key, nanoseconds, until_done, ctypes.byref(state))
        if met >= 0:
            self._state = state
        return met != 0

    def _wait(self, timeout: float | None, *, until_done: bool) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # In slices: the main thread sees Ctrl-C only between calls.
            left = _SLICE if deadline is None else min(_SLICE, max(0.0, deadline - time.monotonic()))
            if self._look(int(left * 1e9), until_done=until_done):
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def explain(self, timeout: float | None) -> str:
        """One sentence on what is missing after ``timeout`` seconds."""
        seen = self.progress
        if seen.releases and not seen.finals:
            what = "the model released the request and sent no final response"
        elif seen.finals and not seen.releases:
            what = "the model sent its final response and did not release the request"
        else:
            what = f"{seen.responses} response(s) came, but neither a final one nor the release"
        return f"no answer within {timeout or 0:g} s: {what}"


def the_one(execution: Execution) -> InferenceResponse:
    """The one response of a finished execution, an error response too."""
    found = []
    while (response := execution.poll()) is not None:
        found.append(response)
    if len(found) == 1:
        return found[0]
    for response in found:
        response.close()
    raise Error(f"the model sent {len(found)} responses where one is due; a decoupled model needs stream()")


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
