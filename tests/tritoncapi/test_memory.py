from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tritoncapi import cuda, memory
from tritoncapi._types import MemoryType
from tritoncapi.errors import ClosedError, CudaError, CudaUnavailable
from tritoncapi.memory import Buffer
from tritoncapi.place import CPU, PINNED, Place, gpu


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    gc.collect()
    before = memory.live_count(), memory.live_bytes()
    yield
    gc.collect()
    assert (memory.live_count(), memory.live_bytes()) == before


class Owner:
    pass


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> dict[int, np.ndarray]:
    """Host memory in place of pinned and GPU memory; the dict holds what is allocated, by address."""
    allocated: dict[int, np.ndarray] = {}

    def alloc(nbytes: int, device: int = 0) -> int:
        array = np.full(nbytes, 0xAA, np.uint8)
        allocated[array.ctypes.data] = array
        return array.ctypes.data

    def free(address: int, device: int = 0) -> None:
        del allocated[address]

    def copy(dst: int, dst_place: Place, src: int, src_place: Place, nbytes: int) -> None:
        host_copy(dst, CPU, src, CPU, nbytes)

    def memset(address: int, value: int, nbytes: int, device: int) -> None:
        if nbytes:
            allocated[address][:nbytes] = value

    host_copy = cuda.copy
    monkeypatch.setattr(cuda, "require_device", lambda device: None)
    monkeypatch.setattr(cuda, "alloc_device", alloc)
    monkeypatch.setattr(cuda, "alloc_pinned", alloc)
    monkeypatch.setattr(cuda, "free_device", free)
    monkeypatch.setattr(cuda, "free_pinned", free)
    monkeypatch.setattr(cuda, "copy", copy)
    monkeypatch.setattr(cuda, "memset", memset)
    return allocated


def test_empty_is_owned() -> None:
    with Buffer.empty(100) as buffer:
        assert (buffer.nbytes, buffer.place, buffer.owned, buffer.readonly, buffer.closed) == (
            100,
            CPU,
            True,
            False,
            False,
        )
    assert buffer.closed


def test_cpu_memory_is_aligned() -> None:
    buffers = [Buffer.empty(size) for size in range(1, 3000, 97)] + [Buffer.zeros(size) for size in range(1, 3000, 97)]
    assert all(buffer.address % 64 == 0 for buffer in buffers)
    for buffer in buffers:
        buffer.fill(buffer.nbytes % 256)
    assert all(buffer.tobytes() == bytes([buffer.nbytes % 256]) * buffer.nbytes for buffer in buffers)


def test_zeros_from_bytes_and_tobytes() -> None:
    with Buffer.zeros(5) as zeros, Buffer.from_bytes(b"hello") as hello:
        assert zeros.tobytes() == bytes(5)
        assert hello.tobytes() == b"hello"


@pytest.mark.parametrize(
    "data", [bytearray(b"ab"), memoryview(b"ab"), np.array([25185], "<u2"), np.array(25185, "<u2")]
)
def test_from_bytes_takes_everything_contiguous(data: Any) -> None:
    with Buffer.from_bytes(data) as buffer:
        assert buffer.tobytes() == b"ab"


def test_from_bytes_copies() -> None:
    source = np.zeros(4, np.uint8)
    with Buffer.from_bytes(source) as buffer:
        source[:] = 1
        assert buffer.tobytes() == bytes(4)


def test_from_bytes_refuses_what_has_no_plain_bytes() -> None:
    with pytest.raises(ValueError, match="not C-contiguous"):
        Buffer.from_bytes(np.zeros((3, 3)).T[1:])
    with pytest.raises(ValueError, match="not C-contiguous"):
        Buffer.from_bytes(memoryview(b"abcd")[::2])
    with pytest.raises(TypeError, match=r"use tensor\.encode"):
        Buffer.from_bytes(np.array([b"a"], dtype=object))


def test_zero_bytes_are_legal() -> None:
    with Buffer.empty(0) as empty, Buffer.from_bytes(b"") as other, Buffer.wrap(np.empty((0, 3))) as wrapped:
        assert (empty.address, empty.nbytes) == (0, 0)
        empty.copy_to(other)
        other.copy_to(wrapped)
        assert empty.tobytes() == b""
        assert empty.numpy(np.float32, (0, 3)).shape == (0, 3)
        assert empty.view(0, 0).nbytes == 0
        empty.fill(1)
        assert memory.live_count() >= 2


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        Buffer.empty(-1)


def test_wrap_borrows_and_keeps_the_array() -> None:
    array = np.arange(4, dtype=np.int32)
    alive = weakref.ref(array)
    buffer = Buffer.wrap(array)
    assert (buffer.address, buffer.nbytes, buffer.owned) == (array.ctypes.data, 16, False)
    del array
    gc.collect()
    assert alive() is not None
    assert buffer.numpy(np.int32).tolist() == [0, 1, 2, 3]
    buffer.close()
    gc.collect()
    assert alive() is None


def test_wrap_of_a_read_only_array() -> None:
    with Buffer.wrap(np.frombuffer(b"abcd", np.uint8)) as buffer, Buffer.zeros(4) as other:
        assert buffer.readonly
        assert not buffer.numpy().flags.writeable
        assert buffer.view(0, 2).readonly
        with pytest.raises(ValueError, match="read-only"):
            other.copy_to(buffer)
        with pytest.raises(ValueError, match="read-only"):
            buffer.fill(0)
        buffer.copy_to(other)
        assert other.tobytes() == b"abcd"


def test_borrow_keeps_the_owner_until_the_last_view_is_gone() -> None:
    backing = np.arange(8, dtype=np.uint8)
    owner = Owner()
    alive = weakref.ref(owner)
    buffer = Buffer.borrow(backing.ctypes.data, 8, CPU, owner)
    del owner
    array = buffer.numpy()
    buffer.close()
    assert alive() is not None
    assert array.tolist() == list(range(8))
    del array
    assert alive() is None


def test_numpy_is_a_view_of_the_memory() -> None:
    with Buffer.zeros(24) as buffer:
        array = buffer.numpy(np.float32, (2, 3))
        array[1, 2] = 1.5
        assert array.ctypes.data == buffer.address
        assert buffer.tobytes()[20:] == np.float32(1.5).tobytes()
        assert buffer.numpy(np.float64).shape == (3,)
        assert buffer.view(20, 4).numpy(np.float32, ()) == 1.5


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("f4", (5,)), ("f4", (7,)), ("f8", (4,)), ("f4", (-1, -6)), ("f4", ()), ("S0", (1,)), ("O", (3,))],
)
def test_numpy_wants_exactly_the_bytes(dtype: str, shape: tuple[int, ...]) -> None:
    with Buffer.zeros(24) as buffer, pytest.raises(ValueError, match=r"24 bytes|cannot be seen"):
        buffer.numpy(dtype, shape)
    with Buffer.zeros(5) as buffer, pytest.raises(ValueError, match="does not take 5 bytes"):
        buffer.numpy(np.float32)


def test_fill_and_copy() -> None:
    with Buffer.empty(4) as a, Buffer.zeros(6) as b:
        a.fill(7)
        a.copy_to(b)
        assert b.tobytes() == b"\7\7\7\7\0\0"
        b.fill(9)
        a.copy_from(b, 2)
        assert a.tobytes() == b"\t\t\7\7"
        with pytest.raises(ValueError, match="cannot copy 6 bytes from a buffer of 6 to one of 4"):
            b.copy_to(a)
        with pytest.raises(ValueError, match="cannot copy -1 bytes"):
            b.copy_to(a, -1)
        with pytest.raises(ValueError, match="256 is not a byte"):
            a.fill(256)


def test_view_shares_the_memory_and_outlives_its_parent() -> None:
    parent = Buffer.from_bytes(b"abcdef")
    child = parent.view(1, 4).view(1, 2)
    assert (child.address, child.nbytes, child.owned) == (parent.address + 2, 2, False)
    parent.close()
    assert memory.live_count() == 1
    assert child.tobytes() == b"cd"
    child.close()
    assert memory.live_count() == 0


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 2), (0, 7), (6, 1), (2, -1)])
def test_view_stays_within(offset: int, nbytes: int) -> None:
    with Buffer.zeros(6) as buffer, pytest.raises(ValueError, match="not within a buffer of 6 bytes"):
        buffer.view(offset, nbytes)


def test_a_second_close_does_nothing() -> None:
    buffer = Buffer.zeros(3)
    buffer.close()
    buffer.close()
    with Buffer.zeros(3) as other:
        other.close()


def test_use_after_close() -> None:
    buffer, other = Buffer.zeros(3), Buffer.zeros(3)
    buffer.close()
    uses = [
        lambda: buffer.address,
        lambda: buffer.view(0, 1),
        buffer.numpy,
        buffer.tobytes,
        lambda: buffer.fill(0),
        lambda: buffer.copy_to(other),
        lambda: buffer.copy_from(other),
        buffer.__enter__,
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="buffer of 3 bytes at cpu is closed"):
            use()
    assert (buffer.nbytes, buffer.place) == (3, CPU)
    assert "closed" in repr(buffer)
    other.close()


def test_a_dropped_cpu_buffer_is_quiet() -> None:
    Buffer.zeros(3)
    gc.collect()


def test_live_counters() -> None:
    a, b = Buffer.zeros(100), Buffer.zeros(28)
    borrowed = Buffer.wrap(np.zeros(5))
    assert memory.live_count() == 2
    assert memory.live_bytes() == {CPU: 128}
    a.close()
    assert memory.live_bytes() == {CPU: 28}
    b.close()
    borrowed.close()
    assert memory.live_bytes() == {}


def test_live_counters_in_threads() -> None:
    def work() -> None:
        for size in range(200):
            buffer = Buffer.zeros(size)
            array = buffer.numpy()
            if size % 2:
                buffer.close()
            del array, buffer

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert memory.live_count() == 0


def test_close_against_views_in_threads(fake_cuda: dict[int, np.ndarray]) -> None:
    for _ in range(100):
        buffer = Buffer.from_bytes(b"\5" * 64, PINNED)
        barrier = threading.Barrier(3)
        wrong: list[Any] = []

        def view(buffer: Buffer = buffer, barrier: threading.Barrier = barrier, wrong: list[Any] = wrong) -> None:
            barrier.wait(10)
            try:
                array = buffer.numpy()
            except ClosedError:
                return
            if buffer.place != PINNED or len(fake_cuda) != 1 or array.sum() != 5 * 64:
                wrong.append(array)

        threads = [threading.Thread(target=view) for _ in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait(10)
        buffer.close()
        for thread in threads:
            thread.join(10)
        assert not wrong
        assert not fake_cuda


@pytest.mark.parametrize("place", [PINNED, gpu(1)])
def test_device_memory_is_freed_once(fake_cuda: dict[int, np.ndarray], place: Place) -> None:
    with Buffer.zeros(8, place) as zeros, Buffer.from_bytes(b"12345678", place) as buffer:
        assert (zeros.tobytes(), buffer.tobytes()) == (bytes(8), b"12345678")
        buffer.copy_to(zeros)
        assert zeros.tobytes() == b"12345678"
        assert memory.live_bytes() == {place: 16}
        buffer.close()
        assert len(fake_cuda) == 1
    zeros.close()
    assert not fake_cuda


def test_gpu_memory_is_no_array(fake_cuda: dict[int, np.ndarray]) -> None:
    with Buffer.zeros(8, gpu(1)) as buffer, pytest.raises(ValueError, match="the CPU cannot read gpu:1"):
        buffer.numpy()


def test_close_under_a_live_array_defers_the_free(fake_cuda: dict[int, np.ndarray]) -> None:
    buffer = Buffer.from_bytes(b"abcd", PINNED)
    array = buffer.numpy()
    part = array[1:3].view(np.uint16)
    buffer.close()
    del array
    assert len(fake_cuda) == 1
    assert part.tobytes() == b"bc"
    assert memory.live_bytes() == {PINNED: 4}
    del part
    assert not fake_cuda


@pytest.mark.parametrize("place", [PINNED, gpu(0)])
def test_a_dropped_device_buffer_warns_and_is_freed(fake_cuda: dict[int, np.ndarray], place: Place) -> None:
    with pytest.warns(ResourceWarning, match=f"unclosed <Buffer of 4 bytes at {place}") as caught:
        Buffer.empty(4, place)
    assert not fake_cuda
    assert isinstance(caught[0].source, Buffer)
    assert caught[0].source.closed


def test_a_dropped_part_of_a_device_buffer_does_not_warn(fake_cuda: dict[int, np.ndarray]) -> None:
    with Buffer.empty(4, gpu(0)) as buffer:
        buffer.view(0, 2)
    Buffer.borrow(0x1000, 4, gpu(0), None)
    assert not fake_cuda


def test_zero_bytes_need_no_allocation_but_the_device(fake_cuda: dict[int, np.ndarray]) -> None:
    with Buffer.zeros(0, gpu(0)) as buffer:
        assert buffer.tobytes() == b""
        assert not fake_cuda


def test_a_failed_fill_frees(fake_cuda: dict[int, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise CudaError("cuMemcpyHtoD", "CUDA_ERROR_UNKNOWN", "planted")

    monkeypatch.setattr(cuda, "memset", fail)
    monkeypatch.setattr(cuda, "copy", fail)
    with pytest.raises(CudaError, match="planted"):
        Buffer.zeros(4, gpu(0))
    with pytest.raises(CudaError, match="planted"):
        Buffer.from_bytes(b"abc", gpu(0))
    assert not fake_cuda


def test_a_failed_free_is_raised_and_still_counted(
    fake_cuda: dict[int, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise CudaError("cuMemFree", "CUDA_ERROR_INVALID_VALUE", "planted")

    buffer = Buffer.empty(4, gpu(0))
    monkeypatch.setattr(cuda, "free_device", fail)
    with pytest.raises(CudaError, match="planted"):
        buffer.close()
    assert memory.live_bytes() == {gpu(0): 4}
    memory._live.clear()


def test_without_a_device_there_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(device: int) -> None:
        raise CudaUnavailable(f"GPU {device} is not there: this machine has 0 CUDA device(s)")

    monkeypatch.setattr(cuda, "require_device", none)
    for place in (PINNED, gpu(2)):
        for nbytes in (0, 4):
            with pytest.raises(CudaUnavailable, match=r"GPU \d is not there"):
                Buffer.empty(nbytes, place)


def test_any_cpu_device_id() -> None:
    with Buffer.from_bytes(b"ab", Place(MemoryType.CPU, 3)) as buffer:
        assert buffer.tobytes() == b"ab"
