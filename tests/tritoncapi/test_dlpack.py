from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from tritoncapi import cuda, dlpack, memory, tensor
from tritoncapi._types import DataType
from tritoncapi.dlpack import TensorView, from_dlpack
from tritoncapi.errors import ClosedError
from tritoncapi.memory import Buffer
from tritoncapi.place import CPU, PINNED, Place, gpu

SHARED = [datatype for datatype in DataType if datatype not in (DataType.INVALID, DataType.BYTES)]
SHAPES = [(), (5,), (0,), (2, 0, 3), (2, 3, 4)]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    gc.collect()
    before = memory.live_count()
    yield
    gc.collect()
    assert memory.live_count() == before


class Producer:
    """Hands out the capsule that it was given, as a foreign library would."""

    def __init__(self, capsule: Any, device: tuple[int, int] = (1, 0)) -> None:
        self.capsule, self.device, self.streams = capsule, device, []  # type: ignore[var-annotated]

    def __dlpack__(self, **options: Any) -> Any:
        self.streams.append(options.get("stream"))
        capsule, self.capsule = self.capsule, None
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def shared(array: np.ndarray) -> TensorView:
    buffer = Buffer.from_bytes(array)
    return TensorView(buffer, tensor.datatype_of(array), array.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("datatype", [datatype for datatype in SHARED if datatype != DataType.BF16])
def test_numpy_takes_every_type_and_shape(datatype: DataType, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 3).astype(tensor.dtype_of(datatype)).reshape(shape)
    view = shared(array)
    assert view.__dlpack_device__() == (1, 0)
    seen = np.from_dlpack(view)
    assert (seen.dtype, seen.shape) == (array.dtype, shape)
    assert np.array_equal(seen, array)
    assert np.array_equal(view.numpy(), array)
    if array.size:
        assert seen.ctypes.data == view.buffer.address


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("datatype", SHARED)
def test_own_round_trip(datatype: DataType, shape: tuple[int, ...]) -> None:
    with Buffer.zeros(tensor.byte_size(datatype, shape)) as source:
        buffer, seen, its_shape = from_dlpack(TensorView(source, datatype, shape))
        assert (seen, its_shape, buffer.place, buffer.nbytes) == (datatype, shape, CPU, source.nbytes)
        assert source.nbytes == 0 or buffer.address == source.address
        assert not buffer.owned
        buffer.close()


def test_the_memory_is_shared_and_outlives_the_buffer() -> None:
    buffer = Buffer.from_bytes(np.arange(4, dtype=np.int32))
    seen = np.from_dlpack(TensorView(buffer, DataType.INT32, [4]))
    buffer.numpy(np.int32)[0] = 9
    buffer.close()
    assert memory.live_count() == 1
    assert seen.tolist() == [9, 1, 2, 3]
    del seen
    assert memory.live_count() == 0


def test_a_capsule_that_nobody_takes_frees_too() -> None:
    buffer = Buffer.zeros(16)
    capsule = TensorView(buffer, DataType.FP32, [4]).__dlpack__()
    buffer.close()
    assert memory.live_count() == 1
    del capsule
    assert memory.live_count() == 0


def test_a_capsule_dropped_while_an_error_is_raised() -> None:
    def refuse(capsule: object) -> None:
        raise KeyError("planted")

    buffer = Buffer.zeros(16)
    with pytest.raises(KeyError, match="planted"):
        refuse(TensorView(buffer, DataType.FP32, [4]).__dlpack__())
    # NumPy has no bfloat16, so it refuses a capsule that it already holds.
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(TensorView(buffer, DataType.BF16, [8]))
    buffer.close()
    gc.collect()
    assert memory.live_count() == 0


def test_labels_of_the_capsule(monkeypatch: pytest.MonkeyPatch) -> None:
    def described(view: TensorView) -> tuple[int, int, int, int, int, list[int]]:
        capsule = view.__dlpack__()
        found = dlpack._managed(capsule).contents.dl_tensor
        assert found.data + found.byte_offset == view.buffer.address
        kind = found.dtype
        return (
            found.device.device_type,
            found.device.device_id,
            kind.code,
            kind.bits,
            kind.lanes,
            found.shape[: found.ndim],
        )

    # No byte of a borrowed buffer is read, so an address without memory does for a GPU's.
    borrowed = Buffer.borrow(0x7F0000000000, 12, gpu(3), None)
    assert described(TensorView(borrowed, DataType.BF16, [2, 3])) == (2, 3, 4, 16, 1, [2, 3])
    assert described(TensorView(borrowed, DataType.BOOL, [12])) == (2, 3, 6, 8, 1, [12])
    assert described(TensorView(borrowed, DataType.FP32, [3])) == (2, 3, 2, 32, 1, [3])
    assert TensorView(borrowed, DataType.FP32, [3]).__dlpack_device__() == (2, 3)
    with pytest.raises(BufferError, match=r"at gpu:3, DLPack device \(2, 3\), not at \(1, 0\)"):
        TensorView(borrowed, DataType.FP32, [3]).__dlpack__(dl_device=(1, 0))
    pinned = Buffer.borrow(0x7F0000000000, 8, PINNED, None)
    as_cpu = TensorView(pinned, DataType.FP64, []).__dlpack__(dl_device=(1, 0))
    assert dlpack._managed(as_cpu).contents.dl_tensor.device.device_type == 1
    assert described(TensorView(pinned, DataType.INT64, [1])) == (3, 0, 0, 64, 1, [1])
    assert described(TensorView(pinned, DataType.UINT16, [4])) == (3, 0, 1, 16, 1, [4])

    waited: list[int] = []
    entered: list[int] = []
    monkeypatch.setattr(cuda, "synchronize", waited.append)
    monkeypatch.setattr(cuda, "current", lambda device: nullcontext(entered.append(device)))
    buffer, datatype, shape = from_dlpack(TensorView(borrowed, DataType.BF16, [2, 3]))
    assert (buffer.place, buffer.address, datatype, shape) == (gpu(3), 0x7F0000000000, DataType.BF16, (2, 3))
    assert waited == entered == [3]


def test_numpy_takes_pinned_memory() -> None:
    backing = np.arange(3, dtype=np.float32)
    with Buffer.borrow(backing.ctypes.data, 12, PINNED, backing) as buffer:
        seen = np.from_dlpack(TensorView(buffer, DataType.FP32, [3]))
        assert seen.ctypes.data == backing.ctypes.data
        assert from_dlpack(TensorView(buffer, DataType.FP32, [3]))[0].place == PINNED


def test_what_cannot_be_exported() -> None:
    with Buffer.from_bytes(b"\1\0\0\0a") as buffer:
        text = TensorView(buffer, DataType.BYTES, [1])
        assert (text.nbytes, text.place, text.shape, text.datatype) == (5, CPU, (1,), DataType.BYTES)
        with pytest.raises(BufferError, match="BYTES tensor has elements of different lengths"):
            text.__dlpack__()
        with pytest.raises(ValueError, match=r"use tensor\.decode"):
            text.numpy()
    fixed = np.zeros(2, np.uint8)
    fixed.flags.writeable = False
    with Buffer.wrap(fixed) as buffer:
        view = TensorView(buffer, DataType.UINT8, [2])
        assert view.numpy().tolist() == [0, 0]
        with pytest.raises(BufferError, match="read-only"):
            view.__dlpack__()
    with Buffer.zeros(4) as buffer:
        view = TensorView(buffer, DataType.FP32, [])
        with pytest.raises(BufferError, match="without a copy"):
            view.__dlpack__(copy=True)
        with pytest.raises(BufferError, match=r"at cpu, DLPack device \(1, 0\), not at \(2, 1\)"):
            view.__dlpack__(dl_device=(2, 1))
        view.__dlpack__(stream=None, max_version=(1, 0), dl_device=(1, 0), copy=False)


def test_a_view_checks_its_size() -> None:
    with Buffer.zeros(8) as buffer:
        with pytest.raises(ValueError, match=r"FP32 tensor of shape \[3\] has 12 bytes, the buffer has 8"):
            TensorView(buffer, DataType.FP32, [3])
        with pytest.raises(ValueError, match="negative"):
            TensorView(buffer, DataType.FP32, [-2])


def test_a_closed_buffer_is_not_exported() -> None:
    view = shared(np.zeros(3))
    view.buffer.close()
    with pytest.raises(ClosedError):
        view.__dlpack__()


def test_bf16_array_is_its_raw_bits() -> None:
    with Buffer.from_bytes(np.array([0x3F80], np.uint16)) as buffer:
        assert TensorView(buffer, DataType.BF16, [1]).numpy().tolist() == [0x3F80]


def test_import_keeps_the_producer_until_the_last_view() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    alive = weakref.ref(array)
    buffer, datatype, shape = from_dlpack(array)
    assert (buffer.address, datatype, shape) == (array.ctypes.data, DataType.INT16, (2, 3))
    del array
    seen = buffer.numpy(np.int16, shape)
    buffer.close()
    gc.collect()
    assert alive() is not None
    assert seen.tolist() == [[0, 1, 2], [3, 4, 5]]
    del seen
    gc.collect()
    assert alive() is None


def test_import_of_a_dropped_buffer_calls_the_deleter_once() -> None:
    calls: list[int] = []
    backing = np.zeros(4, np.float32)
    managed = dlpack._DLManagedTensor()
    managed.dl_tensor.data = backing.ctypes.data
    managed.dl_tensor.device.device_type = 1
    managed.dl_tensor.ndim = 1
    managed.dl_tensor.shape = (ctypes.c_int64 * 1)(3)
    managed.dl_tensor.byte_offset = 4
    managed.dl_tensor.dtype = dlpack._ElementType(2, 32, 1)
    deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(calls.append)
    managed.deleter = ctypes.cast(deleter, ctypes.c_void_p)
    new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
        ("PyCapsule_New", ctypes.pythonapi)
    )
    capsule = new(ctypes.addressof(managed), dlpack._NAME, None)
    buffer, _, shape = from_dlpack(Producer(capsule))
    assert (buffer.address, buffer.nbytes, shape) == (backing.ctypes.data + 4, 12, (3,))
    with pytest.raises(BufferError, match="no unconsumed capsule"):
        from_dlpack(Producer(capsule))
    assert not calls
    del buffer
    assert calls == [ctypes.addressof(managed)]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 3), np.float32).T[1:],
        np.zeros((4, 4), np.float32)[:, ::2],
        np.zeros(3, np.complex64),
        np.zeros(3, np.longdouble),
    ],
)
def test_import_refuses_and_leaves_the_producer_alone(array: np.ndarray) -> None:
    copy = array.copy(order="K") if array.flags.f_contiguous else array
    alive = weakref.ref(copy)
    with pytest.raises(BufferError):
        from_dlpack(copy)
    if copy is not array:
        del copy
        gc.collect()
        assert alive() is None


def test_import_refuses_what_is_no_tensor() -> None:
    with pytest.raises(TypeError, match="list has no __dlpack__"):
        from_dlpack([1])
    with pytest.raises(BufferError, match="no unconsumed capsule"):
        from_dlpack(Producer(object()))


def test_import_accepts_dimensions_of_one_and_none() -> None:
    assert from_dlpack(np.zeros((4, 3), np.float32)[::2][:1])[2] == (1, 3)
    assert from_dlpack(np.zeros((4, 3, 2), np.float32)[:, ::2][:, :1, ::2][:1])[2] == (1, 1, 1)
    assert from_dlpack(np.zeros((0, 3), np.float32).T)[2] == (3, 0)


def test_import_asks_for_the_stream_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(cuda, "current", nullcontext)
    for place, device, stream in ((CPU, (1, 0), None), (gpu(1), (2, 1), 1)):
        assert isinstance(place, Place)
        view = TensorView(Buffer.borrow(0x7F0000000000, 4, place, None), DataType.FP32, [])
        producer = Producer(view.__dlpack__(), device)
        from_dlpack(producer)
        assert producer.streams == [stream]


def test_threads_export_and_drop() -> None:
    buffer = Buffer.from_bytes(np.arange(100, dtype=np.int64))
    view = TensorView(buffer, DataType.INT64, [100])
    wrong: list[int] = []

    def work() -> None:
        for i in range(300):
            if i % 3 == 0:
                view.__dlpack__()
            elif np.from_dlpack(view).sum() != 4950:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    buffer.close()
    assert not wrong
    assert memory.live_count() == 0
