"""What response allocators share, and what a request needs of one."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ._handle import Handle
from ._native import Counts, Native
from .errors import Error

if TYPE_CHECKING:
    from .traffic import Traffic


@dataclass(frozen=True)
class AllocatorCounts:
    """Totals of one allocator. ``mismatched``: releases that named another buffer, size or place than was given."""

    starts: int = 0
    queries: int = 0
    attributes: int = 0
    allocations: int = 0
    failures: int = 0
    zero_sized: int = 0
    releases: int = 0
    double_releases: int = 0
    mismatched: int = 0
    free_failures: int = 0
    live: int = 0
    live_bytes: int = 0
    peak_bytes: int = 0
    reused: int = 0


class Allocator(Protocol):
    """What a request needs of an allocator."""

    @property
    def pointer(self) -> Any:
        """The ``TRITONSERVER_ResponseAllocator*``."""

    @property
    def userp(self) -> int:
        """The ``response_allocator_userp`` that goes with it."""


class AllocatorHandle(Handle):
    """One cannot be closed while buffers of it are out, or may yet be asked for; what went wrong before that
    matters more.
    """

    _native: Native
    _traffics: weakref.WeakSet[Traffic] | None = None

    def _used_by(self, traffic: Traffic) -> None:
        """Until that is closed."""
        if self._traffics is None:
            self._traffics = weakref.WeakSet()
        self._traffics.add(traffic)

    def _check_closable(self, live: int) -> None:
        if live:
            raise Error(
                f"this {self.noun} still has {live} buffer(s) out: close the responses, drop views of them, and close "
                "requests that were forgotten, first"
            )
        flying = self._native.calls_using(self.pointer)
        if flying:
            raise Error(f"{flying} request(s) in flight use this {self.noun}: wait for their answers first")
        if any(traffic.open for traffic in self._traffics or ()):
            raise Error(f"traffic uses this {self.noun}: close the traffic first")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Error:
            if value is None:
                raise
            self.release()


class NativeAllocator(AllocatorHandle):
    """One whose callbacks are native code, which also counts."""

    #: Whether buffers that come back are kept for later outputs.
    reuse = False
    _before_look: Callable[[], None] | None = None  # makes that come back what nobody has any more
    _state: int | None
    _native_counts: Callable[..., None]

    @property
    def userp(self) -> int:
        """The native state's address, which Triton hands back to the callbacks."""
        assert self._state is not None
        return self._state

    @property
    def counts(self) -> AllocatorCounts:
        """Totals since the allocator was made."""
        if self._before_look is not None:
            self._before_look()
        return self._count()

    def _count(self) -> AllocatorCounts:
        """The same of what is out now, in use or not."""
        counts = Counts()
        if self._state:
            self._native_counts(self._state, ctypes.byref(counts))
        return AllocatorCounts(**{name: getattr(counts, name) for name, *_ in Counts._fields_})

    def close(self) -> None:
        """Deletes the allocator (``TRITONSERVER_ResponseAllocatorDelete``). Raises Error while buffers are out."""
        if not self.closed:
            self._check_closable(self.counts.live)
        super().close()
