"""Roster: requests that somebody has to find again, and keeps nobody from forgetting."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from ._library import Library

if TYPE_CHECKING:
    from .request import InferenceRequest


class Roster:
    """A set of weak references that threads may share."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.RLock()  # a signal's handler may be in the midst of it
        self._requests: weakref.WeakSet[InferenceRequest] = weakref.WeakSet()

    def add(self, request: InferenceRequest) -> None:
        """Enters one."""
        with self._lock:
            self._requests.add(request)

    def all(self) -> list[InferenceRequest]:
        """Those that are still there."""
        with self._lock:
            return list(self._requests)

    def clear_aside(self) -> None:
        """Deletes the closed responses that they have put aside."""
        requests = self.all()
        for request in requests:
            self._library.native.run_clear(request._run, False)
        for batch in {batch for request in requests for batch in tuple(request._batches)}:
            batch.clear()
