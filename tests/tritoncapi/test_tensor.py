from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritoncapi import tensor
from tritoncapi._types import DataType
from tritoncapi.memory import Buffer

PLAIN = [
    (DataType.BOOL, "?"),
    (DataType.UINT8, "u1"),
    (DataType.UINT16, "u2"),
    (DataType.UINT32, "u4"),
    (DataType.UINT64, "u8"),
    (DataType.INT8, "i1"),
    (DataType.INT16, "i2"),
    (DataType.INT32, "i4"),
    (DataType.INT64, "i8"),
    (DataType.FP16, "f2"),
    (DataType.FP32, "f4"),
    (DataType.FP64, "f8"),
]
SHAPES = [(), (1,), (0,), (3, 0, 2), (2, 3, 4)]


def objects(*elements: Any) -> np.ndarray:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def bf16_bits(values: np.ndarray) -> list[int]:
    return tensor.encode(values, DataType.BF16).view(np.uint16).tolist()


@pytest.mark.parametrize(("datatype", "dtype"), PLAIN)
def test_types_map_both_ways(datatype: DataType, dtype: str) -> None:
    assert tensor.dtype_of(datatype) == np.dtype(dtype) == tensor.storage_dtype(datatype)
    assert tensor.datatype_of(np.dtype(dtype)) == datatype
    assert tensor.datatype_of(np.zeros(2, dtype)) == datatype
    assert tensor.element_size(datatype) == np.dtype(dtype).itemsize
    assert tensor.byte_size(datatype, (2, 3)) == 6 * np.dtype(dtype).itemsize


@pytest.mark.parametrize(("datatype", "dtype"), PLAIN)
@pytest.mark.parametrize("shape", SHAPES)
def test_plain_types_go_both_ways_without_a_copy(datatype: DataType, dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 7).astype(dtype).reshape(shape)
    raw = tensor.encode(array)
    assert (raw.dtype, raw.ndim, raw.nbytes) == (np.uint8, 1, array.nbytes)
    back = tensor.decode(raw, datatype, shape)
    assert (back.dtype, back.shape) == (array.dtype, shape)
    assert np.array_equal(back, array)
    if array.size:
        assert np.shares_memory(raw, array)
        assert np.shares_memory(back, array)


def test_special_types() -> None:
    assert tensor.datatype_of(np.dtype(object)) == DataType.BYTES
    assert tensor.datatype_of(np.array(["a"])) == DataType.BYTES
    assert tensor.datatype_of(np.array([b"a"])) == DataType.BYTES
    assert tensor.datatype_of(np.float32) == DataType.FP32
    assert tensor.dtype_of(DataType.BYTES) == np.dtype(object)
    assert tensor.dtype_of(DataType.BF16) == np.dtype("f4")
    assert tensor.storage_dtype(DataType.BF16) == np.dtype("u2")
    assert (tensor.element_size(DataType.BYTES), tensor.element_size(DataType.INVALID)) == (0, 0)
    assert tensor.byte_size(DataType.BF16, []) == 2
    assert tensor.byte_size(DataType.FP64, np.array([2**31, 2**31])) == 2**65  # no 64-bit wrap-around


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "V3", [("a", "i4")]])
def test_types_that_triton_lacks(dtype: Any) -> None:
    with pytest.raises(TypeError, match="Triton has no datatype"):
        tensor.datatype_of(np.dtype(dtype))


def test_sizes_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="BYTES"):
        tensor.byte_size(DataType.BYTES, [1])
    with pytest.raises(ValueError, match="INVALID"):
        tensor.dtype_of(DataType.INVALID)
    with pytest.raises(ValueError, match=r"shape \[2, -1\] has a negative dimension"):
        tensor.byte_size(DataType.FP32, [2, -1])
    with pytest.raises(ValueError, match="negative"):
        tensor.decode(b"", DataType.BYTES, [-1])


def test_encode_makes_c_order_and_little_endian() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert tensor.encode(array.T).tobytes() == array.T.tobytes(order="C")
    assert tensor.encode(array[:, ::2]).tobytes() == array[:, ::2].tobytes()
    assert tensor.encode(array.astype(">i4")).tobytes() == array.tobytes()
    assert tensor.encode(np.float32(1.5)).tobytes() == struct.pack("<f", 1.5)


def test_encode_takes_read_only_arrays_without_a_copy() -> None:
    array = np.arange(4)
    array.flags.writeable = False
    raw = tensor.encode(array)
    assert np.shares_memory(raw, array)
    assert not raw.flags.writeable


def test_encode_never_converts_on_its_own() -> None:
    with pytest.raises(TypeError, match=r"the array is int64 \(INT64\), the tensor FP32"):
        tensor.encode(np.arange(3, dtype=np.int64), DataType.FP32)
    with pytest.raises(TypeError, match="BYTES"):
        tensor.encode(np.arange(3, dtype=np.int64), DataType.BYTES)
    with pytest.raises(TypeError, match="NumPy array, not list"):
        tensor.encode([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("wrapped", [bytes, bytearray, memoryview, np.asarray, Buffer.from_bytes])
def test_decode_reads_every_kind_of_host_memory(wrapped: Any) -> None:
    array = np.array([[1.5, -2], [3, 4]], np.float32)
    raw = wrapped(array) if wrapped is np.asarray else wrapped(array.tobytes())
    assert tensor.decode(raw, DataType.FP32, [2, 2]).tolist() == array.tolist()


def test_decode_views_a_buffer() -> None:
    buffer = Buffer.zeros(8)
    view = tensor.decode(buffer, DataType.INT32, [2])
    buffer.numpy(np.int32)[1] = 7
    buffer.close()
    assert view.tolist() == [0, 7]


def test_decode_checks_sizes() -> None:
    with pytest.raises(ValueError, match=r"the FP32 tensor of shape \[2, 3\] has 24 bytes, the buffer has 20"):
        tensor.decode(bytes(20), DataType.FP32, [2, 3])
    with pytest.raises(ValueError, match=r"BF16 .* has 2 bytes, the buffer has 4"):
        tensor.decode(bytes(4), DataType.BF16, [])
    with pytest.raises(ValueError, match="not C-contiguous"):
        tensor.decode(np.zeros((4, 4), np.uint8).T[1:], DataType.UINT8, [12])


# BYTES


def test_bytes_layout() -> None:
    raw = tensor.encode(objects(b"ab", "é", b""))
    assert raw.tobytes() == b"\x02\0\0\0ab" + b"\x02\0\0\0\xc3\xa9" + b"\0\0\0\0"


@pytest.mark.parametrize(
    "array", [np.array([["a", "bcd"]]), np.array([[b"a", b"bcd"]]), objects("a", b"bcd").reshape(1, 2)]
)
def test_bytes_from_every_kind_of_array(array: np.ndarray) -> None:
    raw = tensor.encode(array)
    assert tensor.decode(raw, DataType.BYTES, [1, 2]).tolist() == [[b"a", b"bcd"]]


def test_bytes_from_numpy_2_strings() -> None:
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("NumPy 1 has no StringDType")
    raw = tensor.encode(np.array(["a", "longer than a small string, é"], dtype=np.dtypes.StringDType()))
    assert tensor.decode(raw, DataType.BYTES, [2]).tolist() == [b"a", "longer than a small string, é".encode()]


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_keep_every_shape_and_nul(shape: tuple[int, ...]) -> None:
    array = objects(*(b"\0%d\0" % i for i in range(np.prod(shape, dtype=int)))).reshape(shape)
    back = tensor.decode(tensor.encode(array), DataType.BYTES, shape)
    assert (back.dtype, back.shape) == (np.dtype(object), shape)
    assert back.tolist() == array.tolist()


def test_bytes_in_c_order_of_a_transposed_array() -> None:
    array = objects(b"0", b"1", b"2", b"3", b"4", b"5").reshape(2, 3).T
    assert tensor.decode(tensor.encode(array), DataType.BYTES, [3, 2]).tolist() == array.tolist()


def test_bytes_refuse_other_elements() -> None:
    with pytest.raises(TypeError, match="element 1 is int: a BYTES element is bytes or str"):
        tensor.encode(objects(b"a", 3))
    with pytest.raises(TypeError, match="element 0 is NoneType"):
        tensor.encode(objects(None))


@pytest.mark.parametrize(
    ("raw", "shape", "message"),
    [
        (b"", [1], r"BYTES tensor of shape \[1\] is cut off: element 0's length is at byte 0 of 0"),
        (b"\1\0\0\0a\1\0", [2], "element 1's length is at byte 5 of 7"),
        (b"\1\0\0\0a\3\0\0\0bc", [2], "element 1 is bytes 9 to 12 of 11"),
        (b"\1\0\0\0a\1\0\0\0b", [1], r"left over: its 1 element\(s\) end at byte 5 of 10"),
        (b"\0", [0], "end at byte 0 of 1"),
        (b"\xff\xff\xff\xff", [10**18], "element 0 is bytes 4 to 4294967299 of 4"),
    ],
)
def test_bytes_that_do_not_fit(raw: bytes, shape: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tensor.decode(raw, DataType.BYTES, shape)


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_bytes_round_trip(elements: list[bytes]) -> None:
    array = objects(*elements)
    assert tensor.decode(tensor.encode(array), DataType.BYTES, [len(elements)]).tolist() == elements


@given(st.binary(max_size=40), st.integers(0, 12))
def test_bytes_decode_gives_elements_or_a_value_error(raw: bytes, count: int) -> None:
    try:
        array = tensor.decode(raw, DataType.BYTES, [count])
    except ValueError:
        return
    assert tensor.encode(array).tobytes() == raw


def test_bytes_take_linear_time() -> None:
    def seconds(count: int) -> float:
        array = np.full(count, b"x" * 20, dtype=object)
        start = time.perf_counter()
        tensor.decode(tensor.encode(array), DataType.BYTES, [count])
        return time.perf_counter() - start

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(200_000) for _ in range(3)) < 60 * small


# BF16


def test_bf16_rounds_to_nearest_even() -> None:
    one, step = 0x3F80, 2.0**-7
    values = np.array([1, 1 + step / 2, 1 + 3 * step / 2, 1 + step / 2 + 2**-20, -1 - step / 2], np.float32)
    assert bf16_bits(values) == [one, one, one + 2, one + 1, 0x8000 | one]


def test_bf16_from_float64_is_rounded_once() -> None:
    # In float32 the excess over the tie is lost, and the tie would then go down to even.
    assert bf16_bits(np.array([1 + 2**-8 + 2**-40, 1 + 2**-8 - 2**-40, 1 + 2**-8, -1 - 2**-8 - 2**-40])) == [
        0x3F81,
        0x3F80,
        0x3F80,
        0xBF81,
    ]
    assert bf16_bits(np.array([1e300, -1e300, 1e-300, -1e-300])) == [0x7F80, 0xFF80, 0, 0x8000]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_bf16_keeps_special_values(dtype: str) -> None:
    values = np.array([np.inf, -np.inf, 0.0, -0.0, np.nan], dtype)
    assert bf16_bits(values)[:4] == [0x7F80, 0xFF80, 0, 0x8000]
    back = tensor.decode(tensor.encode(values, DataType.BF16), DataType.BF16, [5])
    assert back.dtype == np.float32
    assert np.array_equal(back, values.astype("f4"), equal_nan=True)


def test_bf16_nan_with_a_low_payload_stays_nan() -> None:
    values = np.array([0x7F800001, 0xFF80FFFF, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(tensor.decode(tensor.encode(values, DataType.BF16), DataType.BF16, [3])).all()


def test_bf16_overflow_to_infinity() -> None:
    assert bf16_bits(np.array([np.finfo(np.float32).max, 3.3895314e38], np.float32)) == [0x7F80, 0x7F7F]


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_keeps_shapes(shape: tuple[int, ...]) -> None:
    array = np.ones(shape, np.float64)
    back = tensor.decode(tensor.encode(array, DataType.BF16), DataType.BF16, shape)
    assert isinstance(back, np.ndarray)
    assert (back.shape, back.tolist()) == (shape, array.tolist())


def test_bf16_raw_bits_are_not_copied() -> None:
    bits = np.array([0x3F80, 0x4000], np.uint16)
    assert np.shares_memory(tensor.encode(bits, DataType.BF16), bits)
    assert tensor.decode(bits, DataType.BF16, [2]).tolist() == [1.0, 2.0]


def test_bf16_refuses_integers() -> None:
    with pytest.raises(TypeError, match="int32"):
        tensor.encode(np.arange(2, dtype=np.int32), DataType.BF16)
    with pytest.raises(TypeError, match="not uint32"):
        tensor.encode(np.arange(2, dtype=np.uint32), DataType.BF16)


@given(st.integers(0, 0xFFFF))
def test_bf16_bits_survive(bits: int) -> None:
    value = tensor.decode(np.array([bits], np.uint16), DataType.BF16, [1])
    if not np.isnan(value[0]):
        assert bf16_bits(value) == bf16_bits(value.astype("f8")) == [bits]


def test_bf16_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    floats = np.random.default_rng(1).standard_normal(10_000).astype(np.float32) * np.float32(1e3)
    native = floats.astype(ml_dtypes.bfloat16)
    assert tensor.datatype_of(native) == DataType.BF16
    assert np.shares_memory(tensor.encode(native), native)
    assert tensor.encode(native, DataType.BF16).tobytes() == tensor.encode(floats, DataType.BF16).tobytes()
    assert np.array_equal(tensor.decode(native, DataType.BF16, [10_000]), native.astype(np.float32))
