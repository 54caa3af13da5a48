"""The thread that acts on executions nobody waits for in person: futures, asynchronous streams, abandoned requests."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable

from ._library import Library
from .execution import Execution

Look = Callable[[], bool]
"""Called on the dispatcher's thread when something happened; returns True when there is nothing more to wait for."""


class Dispatcher:
    """Watches executions. Its thread starts with the first one, and sleeps in native code between events."""

    def __init__(self, library: Library) -> None:
        self._native = library.native
        self._changed = threading.Condition()
        self._watched: dict[int, list[tuple[Look, object, Execution]]] = {}
        self._thread: threading.Thread | None = None

    def watch(self, execution: Execution, look: Look, owner: object = None) -> None:
        """Calls ``look`` soon, and again at each event of the execution, until it returns True."""
        execution.watch(True)
        with self._changed:
            self._watched.setdefault(execution.key, []).append((look, owner, execution))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tritoncapi-dispatcher", daemon=True)
                self._thread.start()
        if self._native.call_notify(execution.key):  # it is forgotten already: nothing more will happen to it
            while self._act(execution.key):
                pass

    def wait(self, owner: object, timeout: float) -> int:
        """Waits until nothing of ``owner`` is watched any more, or the time is over. Returns how many still are."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                left = deadline - time.monotonic()
                count = sum(one is owner for looks in self._watched.values() for _, one, _ in looks)
                if not count or left <= 0:
                    return count
                self._changed.wait(left)

    def _run(self) -> None:
        keys = (ctypes.c_uint64 * 256)()
        while True:
            count = self._native.notices_take(keys, len(keys), -1)
            for key in dict.fromkeys(keys[:count]):
                # Again after each that finished: it may have changed what the others see.
                while self._act(key):
                    pass

    def _act(self, key: int) -> bool:
        for entry in list(self._watched.get(key, ())):
            try:
                finished = entry[0]()
            except Exception:  # one broken watcher must not stop the others
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self._thread)))
                finished = True
            if finished:
                with self._changed:
                    left = self._watched[key]
                    left.remove(entry)
                    if not left:
                        del self._watched[key]
                        entry[2].watch(False)
                    self._changed.notify_all()
                return True
        return False


_dispatchers: dict[Library, Dispatcher] = {}
_making = threading.Lock()


def dispatcher(library: Library) -> Dispatcher:
    """The library's dispatcher: one, since a second would take the first one's notices."""
    with _making:
        found = _dispatchers.get(library)
        if found is None:
            found = _dispatchers[library] = Dispatcher(library)
        return found
