"""Callbacks that Triton calls on its own threads and that run Python code.

C gets an integer, never the address of a Python object: the registry turns it back. An entry is made before the call
that hands the integer out, and dropped when that call fails. Nothing may leave a callback as an exception: it is stored
on the object that the integer stands for, and raised by whoever waits for it.
"""

from __future__ import annotations

import itertools
import threading
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Registry(Generic[_T]):
    """Objects by integer keys that are never used twice. Key 0 stays free: C reads it as NULL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[int, _T] = {}
        self._keys = itertools.count(1)

    def add(self, item: _T) -> int:
        """Registers an object and returns its key."""
        with self._lock:
            key = next(self._keys)
            self._objects[key] = item
            return key

    def get(self, key: int | None) -> _T | None:
        """The object, or None when the key is unknown or was dropped."""
        return self._objects.get(key or 0)

    def drop(self, key: int) -> _T | None:
        """Forgets the key; returns what stood under it."""
        with self._lock:
            return self._objects.pop(key, None)

    def __len__(self) -> int:
        return len(self._objects)
