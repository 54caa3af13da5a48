"""Handle: one pointer that is ours until it is closed or given away."""

from __future__ import annotations

import threading
import warnings
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from .errors import ClosedError, TritonError

_Self = TypeVar("_Self", bound="Handle")
_taking = threading.RLock()  # a signal's handler may close something in the midst of it


class Handle:
    """Owns one C object. ``close()`` deletes it, ``release()`` gives its ownership to C; both happen at most once.

    Forgetting to close is a mistake that is reported (ResourceWarning) and not mended: a deletion at a moment that the
    garbage collector picks would hide the order in which Triton needs things to go.
    """

    noun: ClassVar[str] = "handle"

    def __init__(self, pointer: Any, *parents: object) -> None:
        """Keeps ``parents`` alive for as long as this object is."""
        self._pointer: Any = pointer
        self._parents = parents

    def _dispose(self, pointer: Any) -> None:
        """Calls the C function that deletes ``pointer``."""
        raise NotImplementedError

    @property
    def pointer(self) -> Any:
        """The C pointer. Raises ClosedError when it is no longer ours."""
        if self._pointer is None:
            raise ClosedError(f"this {self.noun} is closed")
        return self._pointer

    @property
    def closed(self) -> bool:
        """True once it was closed or released."""
        return self._pointer is None

    def close(self) -> None:
        """Deletes the C object. Closing again does nothing. What C refuses to delete stays open, and ours."""
        pointer = self._take()
        if pointer is None:
            return
        try:
            self._dispose(pointer)
        except TritonError:
            self._pointer = pointer
            raise

    def release(self) -> Any:
        """Gives the C object away: the caller, or Triton, has to delete it."""
        pointer = self._take()
        if pointer is None:
            raise ClosedError(f"this {self.noun} is closed")
        return pointer

    def _take(self) -> Any:
        with _taking:
            pointer, self._pointer = self._pointer, None
        return pointer

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pointer", None) is not None:
            warnings.warn(f"unclosed {self.noun}: {self!r}", ResourceWarning, source=self, stacklevel=2)
