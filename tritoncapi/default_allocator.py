"""The allocator of requests that name none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._library import Library
from ._types import StartFn
from .allocator_base import NativeAllocator


class DefaultAllocator(NativeAllocator):
    """Puts every output into memory of its own on the CPU, on 64-byte boundaries, and keeps nothing on record.

    What a server uses for requests that name no allocator. Of its ``counts`` there are ``allocations``, ``failures``,
    ``zero_sized``, ``releases``, ``mismatched``, ``live`` and ``live_bytes``; the others stay 0. Where more is to be
    known, or placed, name a ResponseAllocator.
    """

    noun = "default allocator"

    def __init__(self, library: Library, before_look: Callable[[], None]) -> None:
        """``before_look`` makes that come back what nobody has any more."""
        self._api, self._native = library.api, library.native
        self._before_look = before_look
        self._native_counts = self._native.counting_counts
        self._state = self._native.counting_new()
        if not self._state:
            raise MemoryError("no memory for a response allocator")
        functions = self._native.counting_alloc_fn, self._native.counting_release_fn, StartFn()
        pointer = self._api.ResponseAllocatorNew(*functions)
        super().__init__(pointer, library)
        self._api.ResponseAllocatorSetQueryFunction(pointer, self._native.counting_query_fn)

    def _dispose(self, pointer: Any) -> None:
        self._api.ResponseAllocatorDelete(pointer)
        self._native.counting_delete(self._state)
        self._state = None
