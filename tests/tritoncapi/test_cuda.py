"""cuda.py against a driver of Python: what is called, in which context, and what becomes of the answers."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tritoncapi import cuda
from tritoncapi.errors import CudaError, CudaUnavailable
from tritoncapi.place import CPU, PINNED, gpu


class Result(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100


class MemoryKind(IntEnum):
    CU_MEMORYTYPE_HOST = 1
    CU_MEMORYTYPE_DEVICE = 2


class Attribute(IntEnum):
    CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9


class Handle:
    def __init__(self) -> None:
        self.data = ctypes.create_string_buffer(bytes(range(64)), 64)

    def getPtr(self) -> int:
        return ctypes.addressof(self.data)


class FakeDriver:
    """Two devices; every function answers as cuda-python does, a tuple with the CUresult first."""

    CUresult = Result
    CUmemorytype = MemoryKind
    CUpointer_attribute = Attribute
    CU_MEMHOSTALLOC_PORTABLE = 1

    def __init__(self) -> None:
        self.stack = ["the caller's"]
        self.calls: list[tuple[Any, ...]] = []
        self.fail: dict[str, Result] = {}
        self.answers: dict[str, Any] = {
            "cuDeviceGetCount": 2,
            "cuMemAlloc": 0x5000,
            "cuMemHostAlloc": 0x6000,
            "cuMemGetInfo": (10, 20),
            "cuIpcGetMemHandle": Handle(),
        }

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((self.stack[-1], name, *arguments))
            if name in self.fail:
                return (self.fail[name], None) if name in self.answers else (self.fail[name],)
            answer = self.answers.get(name, ())
            return (Result.CUDA_SUCCESS, *(answer if isinstance(answer, tuple) else (answer,)))

        return call

    def CUstream(self, value: int) -> tuple[str, int]:
        return "stream", value

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, f"device {ordinal}"

    def cuDevicePrimaryCtxRetain(self, device: str) -> tuple[Any, ...]:
        self.calls.append(("", "cuDevicePrimaryCtxRetain", device))
        return Result.CUDA_SUCCESS, f"context of {device}"

    def cuCtxPushCurrent(self, context: str) -> tuple[Any, ...]:
        self.stack.append(context)
        return (Result.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, self.stack.pop()

    def cuGetErrorString(self, status: Result) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, status.name.lower().encode()

    def cuPointerGetAttribute(self, attribute: Attribute, ptr: int) -> tuple[Any, ...]:
        assert attribute == Attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        known = {0x6000: MemoryKind.CU_MEMORYTYPE_HOST, 0x5000: MemoryKind.CU_MEMORYTYPE_DEVICE}
        if ptr not in known:
            return self.fail.get("cuPointerGetAttribute", Result.CUDA_ERROR_INVALID_VALUE), None
        return Result.CUDA_SUCCESS, known[ptr]


def ordinal_one(out: Any, attribute: int, ptr: int) -> int:
    """libcuda's own cuPointerGetAttribute, the one call that goes past cuda-python: the memory is on device 1."""
    out._obj.value = 1
    return Result.CUDA_SUCCESS if attribute == 9 else Result.CUDA_ERROR_INVALID_VALUE


@pytest.fixture(autouse=True)
def _fresh_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cuda, "_contexts", {})
    cuda._initialise.cache_clear()
    yield
    cuda._initialise.cache_clear()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)  # type: ignore[arg-type]
    return fake


def named(api: FakeDriver) -> list[tuple[Any, ...]]:
    """The calls that matter: no initialisation."""
    return [call for call in api.calls if call[1] not in ("cuInit", "cuDeviceGetCount", "cuDevicePrimaryCtxRetain")]


def test_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)  # type: ignore[arg-type]
    with pytest.raises(CudaUnavailable, match=r"^no CUDA: cuda-python \(cuda.bindings.driver\) cannot be imported: "):
        cuda.driver()
    assert cuda.device_count() == 0
    assert cuda.pointer_place(0x1234) == CPU


def test_without_a_driver_library(api: FakeDriver) -> None:
    def cuInit(flags: int) -> None:
        raise RuntimeError("Failure finding\nlibcuda.so")

    api.cuInit = cuInit  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(CudaUnavailable) as caught:
            cuda.require_device(0)
        assert str(caught.value) == "no CUDA driver: libcuda cannot be loaded: Failure finding libcuda.so"
    assert cuda.device_count() == 0


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGetCount"])
def test_a_driver_that_refuses(api: FakeDriver, call: str) -> None:
    api.fail[call] = Result.CUDA_ERROR_NO_DEVICE
    with pytest.raises(CudaUnavailable, match=f"^no CUDA device: {call} returned CUDA_ERROR_NO_DEVICE$"):
        cuda.driver()


def test_a_driver_without_devices(api: FakeDriver) -> None:
    api.answers["cuDeviceGetCount"] = 0
    with pytest.raises(CudaUnavailable, match="counts 0 devices"):
        cuda.alloc_pinned(1)
    assert cuda.device_count() == 0


def test_this_machine_says_why_it_has_no_cuda() -> None:
    if cuda.device_count() > 0:
        pytest.skip("there is a CUDA device")
    with pytest.raises(CudaUnavailable, match=r"^no CUDA.*: .+$") as caught:
        cuda.driver()
    assert "\n" not in str(caught.value)


def test_a_forked_process_is_told(api: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda.device_count() == 2
    monkeypatch.setattr(cuda.os, "getpid", lambda: -1)  # type: ignore[attr-defined]
    assert cuda.device_count() == 0
    with pytest.raises(CudaUnavailable, match="before this process was forked"):
        cuda.driver()


def test_initialised_once_by_many_threads(api: FakeDriver) -> None:
    threads = [threading.Thread(target=cuda.synchronize, args=(1,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    names = [call[1] for call in api.calls]
    assert [names.count(name) for name in ("cuInit", "cuDevicePrimaryCtxRetain")] == [1, 1]


@pytest.mark.parametrize("device", [2, -1])
def test_a_device_that_is_not_there(api: FakeDriver, device: int) -> None:
    for call in (lambda: cuda.require_device(device), lambda: cuda.alloc_device(1, device)):
        with pytest.raises(CudaUnavailable, match=rf"^GPU {device} is not there: this machine has 2 CUDA device\(s\)$"):
            call()


def test_current_restores_the_callers_context_on_errors_too(api: FakeDriver) -> None:
    with cuda.current(1):
        assert api.stack == ["the caller's", "context of device 1"]
        with cuda.current(0):
            assert api.stack[-1] == "context of device 0"
        assert api.stack[-1] == "context of device 1"
    with pytest.raises(KeyError), cuda.current(1):
        raise KeyError
    assert api.stack == ["the caller's"]


def test_allocation(api: FakeDriver) -> None:
    assert cuda.alloc_device(7, 1) == 0x5000
    cuda.free_device(0x5000, 1)
    assert cuda.alloc_pinned(9) == 0x6000
    cuda.free_pinned(0x6000)
    assert named(api) == [
        ("context of device 1", "cuMemAlloc", 7),
        ("context of device 1", "cuMemFree", 0x5000),
        ("context of device 0", "cuMemHostAlloc", 9, 1),
        ("context of device 0", "cuMemFreeHost", 0x6000),
    ]
    assert api.stack == ["the caller's"]


def test_a_failed_call_names_itself(api: FakeDriver) -> None:
    api.fail["cuMemAlloc"] = Result.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(CudaError) as caught:
        cuda.alloc_device(1, 0)
    assert str(caught.value) == "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY: cuda_error_out_of_memory"
    assert api.stack == ["the caller's"]


def test_an_error_without_a_description(api: FakeDriver) -> None:
    api.fail["cuCtxSynchronize"] = Result.CUDA_ERROR_NO_DEVICE
    api.cuGetErrorString = lambda status: (Result.CUDA_ERROR_INVALID_VALUE, None)  # type: ignore[method-assign]
    with pytest.raises(CudaError, match="no description"):
        cuda.synchronize(0)


@pytest.mark.parametrize(
    ("dst", "src", "expected"),
    [
        (gpu(1), CPU, [(1, "cuMemcpyHtoD", 2, 3, 8), (1, "wait")]),
        (gpu(0), PINNED, [(0, "cuMemcpyHtoD", 2, 3, 8), (0, "wait")]),
        (CPU, gpu(1), [(1, "cuMemcpyDtoH", 2, 3, 8)]),
        (PINNED, gpu(1), [(1, "cuMemcpyDtoH", 2, 3, 8)]),
        (gpu(1), gpu(1), [(1, "cuMemcpyDtoD", 2, 3, 8), (1, "wait")]),
        (
            gpu(1),
            gpu(0),
            [
                (0, "cuMemcpyPeer", 2, "context of device 1", 3, "context of device 0", 8),
                (0, "wait"),
                (1, "wait"),
            ],
        ),
    ],
)
def test_copy_in_every_direction(api: FakeDriver, dst: Any, src: Any, expected: list[tuple[Any, ...]]) -> None:
    cuda.copy(2, dst, 3, src, 8)
    wait = ("cuStreamSynchronize", ("stream", 0))
    assert named(api) == [
        (f"context of device {device}", *(wait if call == ["wait"] else call)) for device, *call in expected
    ]
    assert api.stack == ["the caller's"]


def test_nothing_to_copy_needs_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)  # type: ignore[arg-type]
    cuda.copy(0, gpu(0), 0, CPU, 0)
    cuda.memset(0, 0, 0, 0)
    a, b = np.arange(4), np.zeros(4, int)
    cuda.copy(b.ctypes.data, PINNED, a.ctypes.data, CPU, a.nbytes)
    assert b.tolist() == [0, 1, 2, 3]


def test_memset_waits(api: FakeDriver) -> None:
    cuda.memset(0x5000, 7, 3, 1)
    assert [call[1] for call in named(api)] == ["cuMemsetD8", "cuStreamSynchronize"]


def test_pointer_place(api: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(cuPointerGetAttribute=ordinal_one)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: library)  # type: ignore[attr-defined]
    assert [cuda.pointer_place(ptr) for ptr in (0x6000, 0x5000, 0x1, 0)] == [PINNED, gpu(1), CPU, CPU]
    api.fail["cuPointerGetAttribute"] = Result.CUDA_ERROR_NO_DEVICE
    with pytest.raises(CudaError, match="cuPointerGetAttribute"):
        cuda.pointer_place(0x1)


def test_ipc_handle_and_memory_info(api: FakeDriver) -> None:
    assert cuda.ipc_handle(0x5000, 0) == bytes(range(64))
    assert cuda.memory_info(1) == (10, 20)
    assert api.stack == ["the caller's"]
