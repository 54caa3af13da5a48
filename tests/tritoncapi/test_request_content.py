"""RequestContent: what a request says, and what it carries."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi.errors import (
    InternalError,
    InvalidArgError,
    NotFoundError,
    UnsupportedError,
)


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


def pair(left: int = 1, right: int = 2) -> dict[str, Any]:
    return {"INPUT0": ints(left), "INPUT1": ints(right)}


def sum_of(request: tc.InferenceRequest, **settings: Any) -> list[int]:
    with request.infer(timeout=20, **settings) as response:
        values: list[int] = response["OUTPUT0"].numpy().tolist()
        return values


# Names and inputs that are none


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        (1, TypeError, "an input's name is a str, not int: 1"),
        (b"INPUT0", TypeError, "an input's name is a str, not bytes: b'INPUT0'"),
        ("INPUT0\0x", ValueError, "an input's name has no NUL in it"),
    ],
)
def test_an_input_name_that_is_none(server: tc.Server, name: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        server.infer("add_sub", {**pair(), name: ints(1)})


def test_an_output_name_that_is_none(server: tc.Server) -> None:
    wrong: Any = [3]
    with pytest.raises(TypeError, match="an output's name is a str, not int: 3"):
        server.infer("add_sub", pair(), outputs=wrong)


def test_inputs_that_are_no_mapping(server: tc.Server) -> None:
    wrong: Any = [ints(1)]
    with pytest.raises(TypeError, match="inputs are a mapping from name to tensor, not list"):
        server.infer("add_sub", wrong)


# What it says


@pytest.mark.parametrize(
    ("name", "first", "values"),
    [
        ("id", "", ["a", "grüße", "x" * 1000, ""]),
        ("flags", tc.RequestFlag(0), [tc.RequestFlag.SEQUENCE_START, tc.RequestFlag(3), tc.RequestFlag(0)]),
        ("correlation_id", 0, [7, 2**64 - 1, "a name", "x" * 128, 0, ""]),
        ("timeout_us", 0, [1, 2**64 - 1, 0]),
    ],
)
def test_what_was_set_is_read(request_: tc.InferenceRequest, name: str, first: Any, values: list[Any]) -> None:
    assert getattr(request_, name) == first
    for value in values:
        setattr(request_, name, value)
        assert getattr(request_, name) == value
        assert type(getattr(request_, name)) is type(value)


def test_priorities_are_those_of_the_model(server: tc.Server) -> None:
    with server.request("add_sub", priority=3) as without_levels:
        assert without_levels.priority == 0
    with server.request("queued", priority=3) as with_levels:
        assert with_levels.priority == 3
        with_levels.priority = 99  # beyond its five levels: its default
        assert with_levels.priority == 2


def test_a_correlation_id_that_is_too_long(request_: tc.InferenceRequest) -> None:
    request_.correlation_id = "kept"
    with pytest.raises(UnsupportedError, match="longer than 128"):
        request_.correlation_id = "x" * 129
    assert request_.correlation_id == "kept"


@pytest.mark.parametrize("value", ["text", 7, -(2**63), True, 0.5])
def test_parameters(request_: tc.InferenceRequest, value: Any) -> None:
    request_.set_parameter("name", value)
    for name, data in pair().items():
        request_.set_input(name, data)
    assert sum_of(request_) == [3]


def test_parameters_that_cannot_be(request_: tc.InferenceRequest) -> None:
    with pytest.raises(TypeError, match="cannot be bytes"):
        request_.set_parameter("name", b"bytes")
    with pytest.raises(TypeError, match="a parameter is a str, int, bool, float or bytes, not list"):
        request_.set_parameter("name", [])  # type: ignore[arg-type]


def test_a_request_with_everything(server: tc.Server) -> None:
    with server.request(
        "add_sub", pair(), outputs=["OUTPUT1"], version=1, parameters={"a": 1}, id="me", timeout_us=10_000_000
    ) as request:
        assert (request.id, request.timeout_us, request.model) == ("me", 10_000_000, "add_sub")
        with request.infer(timeout=20) as response:
            assert list(response.outputs) == ["OUTPUT1"]
            assert response.id == "me"


def test_what_a_request_cannot_be(server: tc.Server) -> None:
    with pytest.raises(NotFoundError, match="unknown model: 'nonsense'"):
        server.request("nonsense")
    with pytest.raises(NotFoundError, match="version 9"):
        server.request("add_sub", version=9)
    for setting in ("nonsense", "infer"):
        with pytest.raises(TypeError, match=f"has no setting '{setting}'"):
            server.request("add_sub", **{setting: 1})
    with pytest.raises(TypeError, match="no datatype"):
        server.request("add_sub", {"INPUT0": np.array([1j])})


# Inputs


def test_an_input_in_chunks(server: tc.Server) -> None:
    left, right = np.arange(10, dtype=np.int32), np.arange(10, dtype=np.int32)[::-1].copy()
    with server.request("add_sub", {"INPUT1": right}) as request:
        request.add_input("INPUT0", tc.DataType.INT32, [10])
        request.append("INPUT0", left[:3])
        request.append("INPUT0", left[3:4].tobytes())
        request.append("INPUT0", tc.Buffer.wrap(left[4:]))
        with request.infer(timeout=20) as response:
            assert response["OUTPUT0"].numpy().tolist() == [9] * 10
            assert response.parameters["input_buffers"] == 4


def test_appended_data_is_kept_alive(server: tc.Server) -> None:
    with server.request("add_sub") as request:
        for name in ("INPUT0", "INPUT1"):
            request.set_input(name, np.full(100_000, 21, np.int32))
        gc.collect()
        for _ in range(20):
            np.full(100_000, -1, np.int32)
        with request.infer(timeout=20) as response:
            assert set(response["OUTPUT0"].numpy().tolist()) == {42}


def test_an_input_is_replaced(server: tc.Server) -> None:
    with server.request("add_sub", pair(1, 2)) as request:
        request.set_input("INPUT0", ints(10))
        assert sum_of(request) == [12]
        with pytest.raises(TypeError):
            request.set_input("INPUT0", np.array([1j]))
        assert sum_of(request) == [12], "a refused tensor took the old one away"


def test_other_kinds_of_data(server: tc.Server) -> None:
    class OnlyDlpack:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **arguments: Any) -> Any:
            return self.array.__dlpack__()

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    with server.request("identity_INT64", {"INPUT0": [1, 2, 3]}) as request, request.infer(timeout=20) as response:
        assert response["OUTPUT0"].numpy().tolist() == [1, 2, 3]
        view = response["OUTPUT0"].tensor
        with server.infer("identity_INT64", {"INPUT0": view}, timeout=20) as again:
            assert again["OUTPUT0"].numpy().tolist() == [1, 2, 3]
        del view
    with server.infer("add_sub", {"INPUT0": OnlyDlpack(ints(5)), "INPUT1": ints(6)[::1]}, timeout=20) as response:
        assert response["OUTPUT0"].numpy().tolist() == [11]
    strided = np.arange(6, dtype=np.int32)[::2]
    with server.infer("add_sub", {"INPUT0": strided, "INPUT1": strided}, timeout=20) as response:
        assert response["OUTPUT0"].numpy().tolist() == [0, 4, 8]


def test_data_for_a_host_policy(server: tc.Server) -> None:
    # The instance runs under the policy "cpu": it sees the data for that, and others' not.
    with server.request("add_sub", {"INPUT1": ints(2)}) as request:
        request.add_input("INPUT0", tc.DataType.INT32, [1])
        request.append("INPUT0", ints(100))
        request.append("INPUT0", ints(1), host_policy="cpu")
        request.append("INPUT0", ints(1000), host_policy="elsewhere")
        assert sum_of(request) == [3]
        request.remove_input_data("INPUT0")
        request.append("INPUT0", ints(100))
        assert sum_of(request) == [102]
        request.set_input("INPUT0", ints(5), host_policy="cpu")
        with pytest.raises(InvalidArgError, match="Expected 4, got 0"):
            request.infer()
        request.append("INPUT0", ints(100))
        assert sum_of(request) == [7]


def test_data_with_buffer_attributes(server: tc.Server) -> None:
    data = ints(1, 2, 3, 4)
    with (
        tc.BufferAttributes(tc.CPU, 8) as attributes,
        server.request("add_sub", {"INPUT1": ints(1, 1)}) as request,
    ):
        assert (attributes.place, attributes.nbytes, attributes.cuda_ipc_handle) == (tc.CPU, 8, None)
        request.add_input("INPUT0", tc.DataType.INT32, [2])
        request.append("INPUT0", data, attributes=attributes)  # their size counts, not the array's
        assert sum_of(request) == [2, 3]
        with pytest.raises(ValueError, match="either a host policy or buffer attributes"):
            request.append("INPUT0", data, attributes=attributes, host_policy="cpu")


def test_buffer_attributes_keep_what_they_are_given(library: tc.Library) -> None:
    handle = bytes(range(64))
    with tc.BufferAttributes(tc.gpu(3), 2**40, handle) as attributes:
        assert (attributes.place, attributes.nbytes, attributes.cuda_ipc_handle) == (tc.gpu(3), 2**40, handle)
    with pytest.raises(ValueError, match="has 64 bytes, not 3"):
        tc.BufferAttributes(tc.CPU, 1, b"abc")


def test_raw_input(server: tc.Server) -> None:
    with server.request("identity_INT32") as request:
        request.add_raw_input("INPUT0")
        with pytest.raises(InvalidArgError, match="raw input"):
            request.add_raw_input("INPUT1")
        request.append("INPUT0", ints(4, 5))
        with request.infer(timeout=20) as response:
            assert response["OUTPUT0"].numpy().tolist() == [4, 5]
    with server.request("add_sub", pair()) as request, pytest.raises(InvalidArgError, match="raw input"):
        request.add_raw_input("INPUT2")


def test_inputs_are_removed(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request:
        request.remove_input("INPUT0")
        with pytest.raises(InvalidArgError, match="expected 2 inputs but got 1"):
            request.infer(timeout=20)
        request.remove_all_inputs()
        with pytest.raises(InvalidArgError, match="expected 2 inputs but got 0"):
            request.infer(timeout=20)
        for remove in (request.remove_input, request.remove_input_data):
            with pytest.raises(InvalidArgError, match="'INPUT0' does not exist"):
                remove("INPUT0")
        for name, data in pair().items():
            request.set_input(name, data)
        assert sum_of(request) == [3]


def test_outputs_are_asked_for(server: tc.Server) -> None:
    def outputs(request: tc.InferenceRequest) -> set[str]:
        with request.infer(timeout=20) as response:
            return set(response.outputs)

    with server.request("add_sub", pair()) as request:
        assert outputs(request) == {"OUTPUT0", "OUTPUT1"}
        request.add_output("OUTPUT1")
        assert outputs(request) == {"OUTPUT1"}
        request.add_output("OUTPUT0")
        request.remove_output("OUTPUT1")
        assert outputs(request) == {"OUTPUT0"}
        request.add_output("nonsense")
        with pytest.raises(InvalidArgError, match="unexpected inference output 'nonsense'"):
            request.infer()
        request.remove_all_outputs()
        assert outputs(request) == {"OUTPUT0", "OUTPUT1"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"INPUT0": ints(1)}, "expected 2 inputs but got 1"),
        ({"INPUT0": ints(1), "OTHER": ints(2)}, "unexpected inference input 'OTHER'|input 'INPUT1' .* missing"),
        (
            {"INPUT0": ints(1), "INPUT1": np.array([1.0], np.float32)},
            "data-type is 'FP32', but model 'add_sub' expects 'INT32'",
        ),
        ({"INPUT0": ints(1), "INPUT1": np.array([[1]], np.int32)}, "unexpected shape for input 'INPUT1'"),
    ],
)
def test_wrong_inputs_are_refused_at_once_and_can_be_mended(server: tc.Server, inputs: Any, message: str) -> None:
    with server.request("add_sub", inputs) as request:
        with pytest.raises(InvalidArgError, match=message):
            request.infer(timeout=20)
        assert not request.in_flight
        request.remove_all_inputs()
        for name, data in pair().items():
            request.set_input(name, data)
        assert sum_of(request) == [3]


def test_less_data_than_the_shape_says(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request:
        request.remove_input_data("INPUT0")
        request.append("INPUT0", b"\0\0\0")
        with pytest.raises(InvalidArgError):
            request.infer(timeout=20)
        request.set_input("INPUT0", ints(4))
        assert sum_of(request) == [6]


def test_a_response_error_leaves_the_request_usable(server: tc.Server) -> None:
    with server.request("fail_request", {"INPUT0": ints(1)}) as request:
        for _ in range(3):
            with pytest.raises(InternalError, match="planted fault: fail_request"):
                request.infer(timeout=20)
