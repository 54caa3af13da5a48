"""The few CUDA driver calls this package needs, through cuda-python's ``cuda.bindings.driver`` (12.x and 13.x).

Nothing is imported or initialised before the first call. Addresses are plain ints, sizes are bytes, a device is a
CUDA ordinal. Every call raises ``CudaUnavailable`` without a driver or without that device, ``CudaError`` where the
driver refuses, and leaves the calling thread's current context as it was.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import CudaError, CudaUnavailable
from .place import CPU, PINNED, Place, gpu

IPC_HANDLE_BYTES = 64


@dataclass(frozen=True, slots=True)
class _Driver:
    """The outcome of the one initialisation: the module and its device count, or why there is none."""

    pid: int
    api: Any = None
    devices: int = 0
    failure: str = ""


# Reentrant: the garbage collector may free a buffer, and so call in here, while this thread holds the lock.
_lock = threading.RLock()
_contexts: dict[int, Any] = {}


def driver() -> Any:
    """The module ``cuda.bindings.driver`` after ``cuInit``; the outcome, a failure too, is kept for the process.

    Raises CudaUnavailable with one sentence: no cuda-python, no driver library, no device, ``cuInit`` refused, or
    CUDA was initialised before this process was forked from its parent.
    """
    loaded = _load()
    if loaded.failure:
        raise CudaUnavailable(loaded.failure)
    return loaded.api


def device_count() -> int:
    """CUDA devices this process sees (``cuDeviceGetCount``); 0 where CUDA is unavailable. Never raises."""
    return _load().devices


def require_device(device: int) -> None:
    """Raises CudaUnavailable unless ``device`` is an ordinal of this machine."""
    driver()
    count = device_count()
    if not 0 <= device < count:
        raise CudaUnavailable(f"GPU {device} is not there: this machine has {count} CUDA device(s)")


@contextmanager
def current(device: int) -> Iterator[None]:
    """Makes ``device``'s primary context current in this thread, and the caller's own again on the way out.

    The primary context is the one the CUDA runtime, Triton and PyTorch use. It is retained once per process and
    never released (``cuDevicePrimaryCtxRetain``, ``cuCtxPushCurrent``, ``cuCtxPopCurrent``).
    """
    _call("cuCtxPushCurrent", _primary_context(device))
    try:
        yield
    finally:
        _call("cuCtxPopCurrent")


def alloc_device(nbytes: int, device: int) -> int:
    """Address of ``nbytes`` > 0 new, uninitialised bytes of GPU ``device`` (``cuMemAlloc``)."""
    with current(device):
        return int(_call("cuMemAlloc", nbytes))


def free_device(ptr: int, device: int) -> None:
    """Frees what ``alloc_device`` returned (``cuMemFree``)."""
    with current(device):
        _call("cuMemFree", ptr)


def alloc_pinned(nbytes: int) -> int:
    """Address of ``nbytes`` > 0 new, uninitialised page-locked host bytes (``cuMemHostAlloc``).

    They are portable: pinned for every device. Device 0's context allocates them, so a device is needed.
    """
    with current(0):
        return int(_call("cuMemHostAlloc", nbytes, driver().CU_MEMHOSTALLOC_PORTABLE))


def free_pinned(ptr: int) -> None:
    """Frees what ``alloc_pinned`` returned (``cuMemFreeHost``)."""
    with current(0):
        _call("cuMemFreeHost", ptr)


def copy(dst: int, dst_place: Place, src: int, src_place: Place, nbytes: int) -> None:
    """Copies ``nbytes`` from ``src`` to ``dst``, in any direction; the bytes are there on return.

    ``cuMemcpyHtoD``, ``cuMemcpyDtoH``, ``cuMemcpyDtoD``, ``cuMemcpyPeer`` between two GPUs, ``memmove`` between host
    memory (which needs no CUDA). The copy runs in the null stream: it does not wait for non-blocking streams.
    """
    if nbytes == 0:
        return
    if dst_place.on_host and src_place.on_host:
        ctypes.memmove(dst, src, nbytes)
    elif src_place.on_host:
        with current(dst_place.device):
            _call("cuMemcpyHtoD", dst, src, nbytes)
            _wait()
    elif dst_place.on_host:
        with current(src_place.device):
            _call("cuMemcpyDtoH", dst, src, nbytes)
    elif dst_place.device == src_place.device:
        with current(dst_place.device):
            _call("cuMemcpyDtoD", dst, src, nbytes)
            _wait()
    else:
        dst_context, src_context = _primary_context(dst_place.device), _primary_context(src_place.device)
        with current(src_place.device):
            _call("cuMemcpyPeer", dst, dst_context, src, src_context, nbytes)
            _wait()
        with current(dst_place.device):
            _wait()


def memset(ptr: int, value: int, nbytes: int, device: int) -> None:
    """Sets ``nbytes`` of GPU ``device`` to ``value`` (0..255); done on return (``cuMemsetD8``)."""
    if nbytes == 0:
        return
    with current(device):
        _call("cuMemsetD8", ptr, value, nbytes)
        _wait()


def ipc_handle(ptr: int, device: int) -> bytes:
    """The 64 bytes by which another process opens the allocation that starts at ``ptr`` (``cuIpcGetMemHandle``)."""
    with current(device):
        handle = _call("cuIpcGetMemHandle", ptr)
    # Not through an attribute: some releases of cuda-python have none on this struct.
    return ctypes.string_at(handle.getPtr(), IPC_HANDLE_BYTES)


def pointer_place(ptr: int) -> Place:
    """Where ``ptr`` points (``cuPointerGetAttribute``): a GPU, pinned memory, or else CPU memory.

    Managed memory counts as its GPU's. Memory that CUDA does not know is CPU memory, so everything is without CUDA.
    """
    if device_count() == 0:
        return CPU
    api = driver()
    try:
        kind = _call("cuPointerGetAttribute", api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, ptr)
    except CudaError as error:
        if error.name == "CUDA_ERROR_INVALID_VALUE":
            return CPU
        raise
    if int(kind) == int(api.CUmemorytype.CU_MEMORYTYPE_HOST):
        return PINNED
    return gpu(_device_of(ptr))


def memory_info(device: int) -> tuple[int, int]:
    """Free and total bytes of GPU ``device``, all processes counted (``cuMemGetInfo``)."""
    with current(device):
        free, total = _call("cuMemGetInfo")
    return int(free), int(total)


def synchronize(device: int) -> None:
    """Waits for all work of this process on GPU ``device`` (``cuCtxSynchronize``)."""
    with current(device):
        _call("cuCtxSynchronize")


def _load() -> _Driver:
    with _lock:
        loaded = _initialise()
    if loaded.pid != os.getpid() and not loaded.failure:
        return _Driver(loaded.pid, failure="no CUDA here: it was initialised before this process was forked; spawn it")
    return loaded


@functools.cache
def _initialise() -> _Driver:
    pid = os.getpid()
    try:
        api = importlib.import_module("cuda.bindings.driver")
    except Exception as error:
        return _Driver(pid, failure=f"no CUDA: cuda-python (cuda.bindings.driver) cannot be imported: {_line(error)}")
    # cuda-python raises RuntimeError, or a kind of its own, where libcuda cannot be loaded.
    try:
        (status,) = api.cuInit(0)
        if _name(status) != "CUDA_SUCCESS":
            return _Driver(pid, failure=f"no CUDA device: cuInit returned {_name(status)}")
        status, count = api.cuDeviceGetCount()
    except Exception as error:
        return _Driver(pid, failure=f"no CUDA driver: libcuda cannot be loaded: {_line(error)}")
    if _name(status) != "CUDA_SUCCESS":
        return _Driver(pid, failure=f"no CUDA device: cuDeviceGetCount returned {_name(status)}")
    if count == 0:
        return _Driver(pid, failure="no CUDA device: the driver is there and counts 0 devices")
    return _Driver(pid, api, int(count))


def _primary_context(device: int) -> Any:
    require_device(device)
    with _lock:
        if device not in _contexts:
            _contexts[device] = _call("cuDevicePrimaryCtxRetain", _call("cuDeviceGet", device))
        return _contexts[device]


def _device_of(ptr: int) -> int:
    # Straight to the driver: cuda-python 13.3.1 answers 0 for memory of every device (its issue 2928).
    api = driver()
    attribute = api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    ordinal = ctypes.c_int(-1)
    function = ctypes.CDLL("libcuda.so.1").cuPointerGetAttribute
    function.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)
    _values("cuPointerGetAttribute", (api.CUresult(function(ctypes.byref(ordinal), int(attribute), ptr)),))
    return ordinal.value


def _wait() -> None:
    # A copy from pageable memory and one between GPUs may return early; both are in the current null stream.
    _call("cuStreamSynchronize", driver().CUstream(0))


def _call(call: str, *arguments: Any) -> Any:
    return _values(call, getattr(driver(), call)(*arguments))


def _values(call: str, result: tuple[Any, ...]) -> Any:
    """What follows the CUresult: None, the one value or the tuple of values. Raises CudaError."""
    status, *values = result
    if _name(status) != "CUDA_SUCCESS":
        _, text = driver().cuGetErrorString(status)
        raise CudaError(call, _name(status), text.decode() if text else "no description")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _name(status: Any) -> str:
    return getattr(status, "name", None) or f"CUresult {status}"
