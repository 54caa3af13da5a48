"""Trace: what Triton says about a request's way, with time stamps and tensors."""

from __future__ import annotations

import ctypes
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from . import _types as T
from ._callbacks import Registry
from ._handle import Handle
from ._library import Library, load
from ._types import DataType, MemoryType, TraceActivity, TraceLevel
from .memory import Buffer
from .place import Place
from .tensor import decode


@dataclass(frozen=True)
class Activity:
    """A time stamp of one trace: ns of CLOCK_MONOTONIC."""

    trace_id: int
    parent_id: int
    model: str
    activity: TraceActivity
    timestamp_ns: int


@dataclass(frozen=True)
class TracedTensor:
    """A tensor as it passed by. ``data`` is a copy: the original is gone after the callback."""

    trace_id: int
    activity: TraceActivity
    name: str
    datatype: DataType
    shape: tuple[int, ...]
    place: Place
    data: bytes

    def numpy(self) -> npt.NDArray[Any]:
        """The values."""
        return decode(self.data, self.datatype, self.shape)


class Trace(Handle):
    """A trace for one request (``TRITONSERVER_InferenceTraceNew``, with TENSORS ``...TensorNew``).

    Give it to ``infer``; Triton then owns it and releases it when the request is over and its responses, with the views
    of them, are closed: ``wait()`` for that. Traces that Triton makes for composing models report here too, told apart
    by ``trace_id``. What went wrong in a callback is in ``errors``.
    """

    noun = "inference trace"

    def __init__(
        self, level: TraceLevel = TraceLevel.TIMESTAMPS, parent_id: int = 0, library: Library | None = None
    ) -> None:
        library = library or load()
        self._api = library.api
        self.level = level
        self.activities: list[Activity] = []
        self.tensors: list[TracedTensor] = []
        self.errors: list[BaseException] = []
        self._released = threading.Event()
        self._root = 0
        self._key = _traces.add(weakref.ref(self))
        try:
            if level & TraceLevel.TENSORS:
                pointer = self._api.InferenceTraceTensorNew(level, parent_id, _ACTIVITY, _TENSOR, _RELEASE, self._key)
            else:
                pointer = self._api.InferenceTraceNew(level, parent_id, _ACTIVITY, _RELEASE, self._key)
        except BaseException:
            _traces.drop(self._key)
            raise
        super().__init__(pointer, library)

    @property
    def id(self) -> int:
        """Unique in the process (``TRITONSERVER_InferenceTraceId``)."""
        return int(self._api.InferenceTraceId(self.pointer))

    @property
    def parent_id(self) -> int:
        """``TRITONSERVER_InferenceTraceParentId``; 0 for none."""
        return int(self._api.InferenceTraceParentId(self.pointer))

    @property
    def model(self) -> tuple[str, int]:
        """Name and version of the traced model; ``("", -1)`` before the request was submitted."""
        name = self._api.InferenceTraceModelName(self.pointer)
        if not name:  # the library leaves the version uninitialised until then
            return "", -1
        return name.decode(), self._api.InferenceTraceModelVersion(self.pointer)

    @property
    def request_id(self) -> str:
        """``TRITONSERVER_InferenceTraceRequestId``."""
        return (self._api.InferenceTraceRequestId(self.pointer) or b"").decode()

    @property
    def context(self) -> str:
        """Text that travels with the trace, as for OpenTelemetry (``TRITONSERVER_InferenceTraceContext``)."""
        return (self._api.InferenceTraceContext(self.pointer) or b"").decode()

    @context.setter
    def context(self, value: str) -> None:
        self._api.InferenceTraceSetContext(self.pointer, value.encode())

    def report(self, activity: str, timestamp_ns: int) -> None:
        """Adds an activity of one's own (``TRITONSERVER_InferenceTraceReportActivity``)."""
        self._api.InferenceTraceReportActivity(self.pointer, timestamp_ns, activity.encode())

    def spawn_child(self) -> Any:
        """The pointer of a child trace, which is the caller's (``TRITONSERVER_InferenceTraceSpawnChildTrace``)."""
        return self._api.InferenceTraceSpawnChildTrace(self.pointer)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until Triton released the trace; False when the time is over."""
        return self._released.wait(timeout)

    def submit(self) -> Any:
        """Gives the pointer to Triton; ``refused`` takes it back when Triton would not have it."""
        pointer = self.release()
        self._root = _address(pointer)
        _running.add(self)
        return pointer

    def refused(self, pointer: Any) -> None:
        """The submission failed: the trace is ours again."""
        self._pointer = pointer
        self._root = 0
        _running.discard(self)

    def _dispose(self, pointer: Any) -> None:
        _traces.drop(self._key)
        self._api.InferenceTraceDelete(pointer)

    def _ended(self, pointer: Any) -> None:
        root = _address(pointer) == self._root
        self._api.InferenceTraceDelete(pointer)
        if root:
            _traces.drop(self._key)
            _running.discard(self)
            self._released.set()


_traces: Registry[weakref.ref[Trace]] = Registry()
_running: set[Trace] = set()  # those that Triton has: kept alive for their callbacks


def _trace(key: int) -> Trace | None:
    found = _traces.get(key)
    return found() if found is not None else None


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _on_activity(pointer: Any, activity: int, timestamp_ns: int, key: int) -> None:
    trace = _trace(key)
    if trace is None:
        return
    try:
        api = trace._api
        trace.activities.append(
            Activity(
                api.InferenceTraceId(pointer),
                api.InferenceTraceParentId(pointer),
                (api.InferenceTraceModelName(pointer) or b"").decode(),
                TraceActivity(activity),
                timestamp_ns,
            )
        )
    except BaseException as error:
        trace.errors.append(error)


def _on_tensor(
    pointer: Any,
    activity: int,
    name: bytes,
    datatype: int,
    base: int | None,
    nbytes: int,
    shape: Any,
    dims: int,
    kind: int,
    device: int,
    key: int,
) -> None:
    trace = _trace(key)
    if trace is None:
        return
    try:
        place = Place(MemoryType(kind), device)
        data = Buffer.borrow(base or 0, nbytes, place, None).tobytes()
        trace.tensors.append(
            TracedTensor(
                trace._api.InferenceTraceId(pointer),
                TraceActivity(activity),
                name.decode(),
                DataType(datatype),
                tuple(shape[:dims]),
                place,
                data,
            )
        )
    except BaseException as error:
        trace.errors.append(error)


def _on_release(pointer: Any, key: int) -> None:
    trace = _trace(key)
    if trace is None:
        return
    try:
        trace._ended(pointer)
    except BaseException as error:
        trace.errors.append(error)


# Kept for ever: Triton may call them for as long as it holds a trace.
_ACTIVITY = T.TraceActivityFn(_on_activity)
_TENSOR = T.TraceTensorActivityFn(_on_tensor)
_RELEASE = T.TraceReleaseFn(_on_release)
