"""Buffers in real pinned and GPU memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tritoncapi import cuda, memory, tensor
from tritoncapi._types import DataType
from tritoncapi.dlpack import TensorView, from_dlpack
from tritoncapi.errors import ClosedError, CudaError, CudaUnavailable
from tritoncapi.memory import Buffer
from tritoncapi.place import CPU, PINNED, Place, gpu

DEVICES = cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICES == 0, reason="no CUDA device: these tests need real GPU memory"),
]
PLACES = [CPU, PINNED, *(gpu(device) for device in range(max(1, min(DEVICES, 2))))]
DATA = np.random.default_rng(7).integers(0, 256, 1_000_003, np.uint8).tobytes()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    gc.collect()
    before = memory.live_count(), memory.live_bytes()
    yield
    gc.collect()
    assert (memory.live_count(), memory.live_bytes()) == before


def current_context() -> int:
    return int(cuda._call("cuCtxGetCurrent"))


@pytest.mark.parametrize("dst", PLACES, ids=str)
@pytest.mark.parametrize("src", PLACES, ids=str)
@pytest.mark.parametrize("nbytes", [0, 1, 4096, len(DATA)])
def test_copy_in_every_direction(src: Place, dst: Place, nbytes: int) -> None:
    data = DATA[:nbytes]
    with Buffer.from_bytes(data, src) as a, Buffer.zeros(nbytes + 2, dst) as b:
        b.fill(0xEE)
        a.copy_to(b.view(1, nbytes))
        assert b.tobytes() == b"\xee" + data + b"\xee"
        a.fill(0)
        assert a.tobytes() == bytes(nbytes)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_pointer_place(place: Place) -> None:
    with Buffer.empty(64, place) as buffer:
        assert cuda.pointer_place(buffer.address) == place
        assert cuda.pointer_place(buffer.address + 63) == place
        assert buffer.place == place


def test_pointer_place_of_memory_that_cuda_does_not_know() -> None:
    array = np.zeros(10)
    assert cuda.pointer_place(array.ctypes.data) == CPU
    assert cuda.pointer_place(0) == CPU


def test_no_context_is_left_current() -> None:
    seen: list[int] = []

    def work() -> None:
        seen.append(current_context())
        with Buffer.zeros(4, gpu(0)) as buffer, Buffer.from_bytes(b"abcd", PINNED) as pinned:
            pinned.copy_to(buffer)
            cuda.pointer_place(buffer.address)
        seen.append(current_context())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert seen == [0, 0]


@pytest.mark.parametrize("device", range(max(1, DEVICES)))
def test_the_callers_device_is_restored(device: int) -> None:
    last = DEVICES - 1
    with cuda.current(device):
        before = current_context()
        assert before != 0
        with Buffer.from_bytes(b"abcd", gpu(last)) as buffer, Buffer.empty(4, PINNED) as pinned:
            assert current_context() == before
            buffer.copy_to(pinned)
            buffer.fill(1)
            cuda.memory_info(last)
            cuda.ipc_handle(buffer.address, last)
            assert current_context() == before
        assert current_context() == before
        with pytest.raises(KeyError), cuda.current(last):
            raise KeyError
        assert current_context() == before


def test_out_of_memory_and_unknown_devices() -> None:
    _, total = cuda.memory_info(0)
    with pytest.raises(CudaError, match="cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY: ") as caught:
        Buffer.empty(total * 2, gpu(0))
    assert caught.value.name == "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(CudaUnavailable, match=f"GPU {DEVICES} is not there"):
        Buffer.empty(4, gpu(DEVICES))


def test_gpu_memory_is_really_freed() -> None:
    size = 1 << 28
    Buffer.empty(size, gpu(0)).close()
    free, total = cuda.memory_info(0)
    assert 0 < free <= total
    with Buffer.empty(size, gpu(0)):
        assert cuda.memory_info(0)[0] <= free - size
        assert memory.live_bytes()[gpu(0)] == size
    assert cuda.memory_info(0)[0] >= free - size // 2


def test_ipc_handle() -> None:
    with Buffer.empty(4096, gpu(0)) as a, Buffer.empty(1 << 22, gpu(0)) as b:
        handles = [cuda.ipc_handle(buffer.address, 0) for buffer in (a, b, a)]
    assert [len(handle) for handle in handles] == [64, 64, 64]
    assert handles[0] == handles[2] != handles[1]
    assert any(handles[0])


@pytest.mark.parametrize("place", PLACES[1:], ids=str)
def test_a_dropped_buffer_warns_and_is_freed(place: Place) -> None:
    before = memory.live_count()
    with pytest.warns(ResourceWarning, match=f"unclosed <Buffer of 16 bytes at {place}"):
        Buffer.empty(16, place)
    assert memory.live_count() == before


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_close_twice_and_use_after_close(place: Place) -> None:
    buffer = Buffer.zeros(16, place)
    buffer.close()
    buffer.close()
    for use in (buffer.tobytes, lambda: buffer.view(0, 1), lambda: buffer.fill(0), lambda: buffer.address):
        with pytest.raises(ClosedError):
            use()


def test_arrays_over_pinned_memory_defer_the_free() -> None:
    buffer = Buffer.from_bytes(DATA, PINNED)
    address = buffer.address
    array = buffer.numpy()[1000:]
    buffer.close()
    assert cuda.pointer_place(address) == PINNED
    assert array.tobytes() == DATA[1000:]
    del array
    assert cuda.pointer_place(address) == CPU


def test_gpu_memory_is_no_array() -> None:
    with Buffer.zeros(16, gpu(0)) as buffer, pytest.raises(ValueError, match="the CPU cannot read gpu:0"):
        buffer.numpy()


def test_threads_allocate_copy_and_free() -> None:
    wrong: list[str] = []

    def work(index: int) -> None:
        data = bytes([index]) * 5000
        for i in range(30):
            place, other = PLACES[(index + i) % len(PLACES)], PLACES[(index + i // 3) % len(PLACES)]
            with Buffer.from_bytes(data, place) as a, Buffer.zeros(5000, other) as b:
                a.copy_to(b)
                if b.tobytes() != data:
                    wrong.append(f"{place} to {other}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_numpy_takes_pinned_memory_through_dlpack() -> None:
    buffer = Buffer.from_bytes(np.arange(6, dtype=np.float32), PINNED)
    address = buffer.address
    seen = np.from_dlpack(TensorView(buffer, DataType.FP32, [2, 3]))
    buffer.close()
    assert seen.tolist() == [[0, 1, 2], [3, 4, 5]]
    del seen
    assert cuda.pointer_place(address) == CPU


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize(
    ("datatype", "name"), [(DataType.FP32, "float32"), (DataType.BF16, "bfloat16"), (DataType.BOOL, "bool")]
)
def test_torch_both_ways(place: Place, datatype: DataType, name: str) -> None:
    torch = pytest.importorskip("torch")
    raw = tensor.encode(np.array([[1, 0, 1]], "?" if datatype == DataType.BOOL else "f4"), datatype)
    buffer = Buffer.from_bytes(raw, place)
    view = TensorView(buffer, datatype, [1, 3])
    if place == PINNED:
        with pytest.raises(BufferError, match="device_type: 3"):  # once it takes that, this detour can go
            torch.from_dlpack(view)
        seen = torch.from_dlpack(view.__dlpack__(dl_device=(1, 0)))
    else:
        seen = torch.from_dlpack(view)
    assert (str(seen.dtype), tuple(seen.shape), seen.data_ptr()) == (f"torch.{name}", (1, 3), buffer.address)
    assert (seen.device.type, seen.device.index) == (("cpu", None) if place.on_host else ("cuda", place.device))
    buffer.close()
    assert seen.float().cpu().tolist() == [[1.0, 0.0, 1.0]]
    back, its_type, shape = from_dlpack(seen)
    assert (back.address, its_type, shape) == (seen.data_ptr(), datatype, (1, 3))
    del seen
    assert back.tobytes() == raw.tobytes()
    back.close()
    gc.collect()


def test_import_of_a_torch_tensor_keeps_it() -> None:
    torch = pytest.importorskip("torch")
    source = torch.arange(1000, device="cuda:0") * 2
    buffer, datatype, shape = from_dlpack(source)
    assert (buffer.place, buffer.address, datatype, shape) == (gpu(0), source.data_ptr(), DataType.INT64, (1000,))
    del source
    torch.full((1000,), -1, device="cuda:0")  # would reuse the memory if it had been freed
    assert np.frombuffer(buffer.tobytes(), np.int64).tolist() == list(range(0, 2000, 2))
    buffer.close()
    with pytest.raises(BufferError, match="not contiguous"):
        from_dlpack(torch.zeros(4, 4, device="cuda:0").t()[1:])


def test_cupy_both_ways() -> None:
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    with Buffer.from_bytes(np.arange(4, dtype=np.int32), gpu(0)) as buffer:
        seen = cupy.from_dlpack(TensorView(buffer, DataType.INT32, [2, 2]))
        seen += 1
        cupy.cuda.Device(0).synchronize()
        back, datatype, shape = from_dlpack(seen)
        assert (back.address, datatype, shape) == (buffer.address, DataType.INT32, (2, 2))
        back.close()
        assert np.frombuffer(buffer.tobytes(), np.int32).tolist() == [1, 2, 3, 4]
        del seen


def test_a_process_that_ends_with_everything_open_ends_well() -> None:
    code = """
import numpy as np
from tritoncapi._types import DataType
from tritoncapi.dlpack import TensorView
from tritoncapi.memory import Buffer
from tritoncapi.place import PINNED, gpu
pinned, device = Buffer.zeros(64, PINNED), Buffer.zeros(64, gpu(0))
array, seen = pinned.numpy(), np.from_dlpack(TensorView(pinned, DataType.INT8, [64]))
capsule = TensorView(device, DataType.INT8, [64]).__dlpack__()
try:
    import torch
    kept = torch.from_dlpack(TensorView(device, DataType.INT8, [64]))
except ImportError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
