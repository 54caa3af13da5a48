"""InferenceResponse and Output: what came back, and how long it stays."""

from __future__ import annotations

import ctypes
import gc
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi.errors import CancelledError, ClosedError, Error, InternalError
from tritoncapi.output import Lease, Look

VALUES: dict[str, Any] = {
    "BOOL": np.array([True, False, True]),
    "FP16": np.array([1.5, -2.0, 65504.0], np.float16),
    "FP32": np.array([1.5, -2.0, np.inf], np.float32),
    "FP64": np.array([1.5, -2.0, 1e300]),
    "BYTES": np.array([b"one", b"", "zwölf".encode()], object),
}
for bits in (8, 16, 32, 64):
    VALUES[f"INT{bits}"] = np.array([0, 1, -(2 ** (bits - 1))], f"i{bits // 8}")
    VALUES[f"UINT{bits}"] = np.array([0, 1, 2**bits - 1], f"u{bits // 8}")


def pair(*values: int) -> dict[str, Any]:
    return {"INPUT0": np.array(values, np.int32), "INPUT1": np.array(values, np.int32)}


@pytest.mark.parametrize("name", VALUES)
def test_every_datatype_comes_back_as_it_went(server: tc.Server, name: str) -> None:
    with server.infer(f"identity_{name}", {"INPUT0": VALUES[name]}, timeout=20) as response:
        output = response["OUTPUT0"]
        assert (output.datatype, output.shape) == (tc.DataType[name], (3,))
        assert output.numpy().dtype == VALUES[name].dtype
        assert output.numpy().tolist() == VALUES[name].tolist()
        del output


def test_bf16(server: tc.Server) -> None:
    import ml_dtypes

    given = np.array([1.5, -2.0, 256.0], ml_dtypes.bfloat16)
    with server.infer("identity_BF16", {"INPUT0": given}, timeout=20) as response:
        output = response["OUTPUT0"]
        assert (output.datatype, output.nbytes) == (tc.DataType.BF16, 6)
        assert (output.numpy().dtype, output.numpy().tolist()) == (np.float32, [1.5, -2.0, 256.0])
        del output


def test_all_datatypes_are_tried(tools: Any) -> None:
    assert {*VALUES, "BF16"} == set(tools.datatypes)


@pytest.mark.parametrize("name", [*VALUES, "BF16"])
def test_empty_tensors(server: tc.Server, name: str) -> None:
    with server.request(f"identity_{name}") as request:
        request.add_input("INPUT0", tc.DataType[name], [0])
        with request.infer(timeout=20) as response:
            output = response["OUTPUT0"]
            assert (output.shape, output.nbytes, output.address) == ((0,), 0, 0)
            assert output.numpy().shape == (0,)
            assert output.tensor.shape == (0,)
            assert output.buffer.tobytes() == b""
            del output


def test_shapes(server: tc.Server) -> None:
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    for array in (given, given.T, given[:0], given[:, :0]):
        with server.infer("matrix", {"INPUT0": array}, timeout=20) as response:
            assert response["OUTPUT0"].numpy().tolist() == array.tolist()
            assert response["OUTPUT0"].shape == array.shape


def test_what_a_response_says(server: tc.Server) -> None:
    with server.infer("add_sub", pair(1, 2), id="me", timeout=20) as response:
        assert (response.id, response.model, response.error, response.final) == ("me", ("add_sub", 1), None, True)
        assert response.time_ns > 0
        assert response.raise_for_error() is response
        assert list(response.outputs) == [output.name for output in response] == ["OUTPUT0", "OUTPUT1"]
        assert len(response) == 2
        assert response["OUTPUT1"] is response["OUTPUT1"]
        assert repr(response["OUTPUT0"]) == "<Output OUTPUT0 INT32[2] 8 bytes on cpu>"
        assert response["OUTPUT0"].index == 0
        assert response["OUTPUT0"].userp
        with pytest.raises(Error, match="has no output 'OUTPUT9'; it has OUTPUT0, OUTPUT1"):
            response["OUTPUT9"]


def test_parameters(server: tc.Server) -> None:
    with server.infer("add_sub", pair(1), timeout=20) as response:
        assert response.parameters == {
            "computed_on": "cpu",
            "host_policy": "cpu",
            "instance": "add_sub_0_0",
            "input_buffers": 2,
        }
        assert type(response.parameters["input_buffers"]) is int


@pytest.mark.parametrize(
    ("kind", "held", "value"),
    [
        (tc.ParameterType.STRING, "grüße".encode() + b"\0", "grüße"),
        (tc.ParameterType.INT, (-5).to_bytes(8, "little", signed=True), -5),
        (tc.ParameterType.BOOL, b"\1", True),
        (tc.ParameterType.DOUBLE, np.float64(0.5).tobytes(), 0.5),
        (tc.ParameterType.BYTES, b"raw\0", b"raw"),
    ],
)
def test_parameters_of_every_type(kind: tc.ParameterType, held: bytes, value: Any) -> None:
    import ctypes

    from tritoncapi.parameter import read_value

    memory = ctypes.create_string_buffer(held, len(held))
    assert read_value(kind, ctypes.addressof(memory)) == value
    assert type(read_value(kind, ctypes.addressof(memory))) is type(value)


def test_labels(server: tc.Server) -> None:
    given = {"INPUT0": np.array([1], np.int32)}
    with server.infer("labelled", given, timeout=20) as response:
        output = response["OUTPUT0"]
        assert [output.label(index) for index in range(4)] == ["zero", "one", "two", None]
        del output
    with server.infer("identity_INT32", given, timeout=20) as response:
        assert response["OUTPUT0"].label(0) is None


def test_an_error_response(server: tc.Server) -> None:
    with server.request("fail_request", {"INPUT0": np.array([1], np.int32)}, id="bad") as request:
        response = request.start().next(20)
        assert response is not None
        with response:
            for _ in range(2):  # reading it does not use it up
                assert isinstance(response.error, InternalError)
            assert response.error.message == "planted fault: fail_request"
            assert (len(response), response.id, response.model[0]) == (0, "bad", "fail_request")
            with pytest.raises(InternalError):
                response.raise_for_error()
            with pytest.raises(Error, match="it has none"):
                response["OUTPUT0"]


def test_a_cancelled_response(server: tc.Server) -> None:
    with server.request("slow", {"INPUT0": np.array([1], np.int32)}) as request:
        execution = request.start()
        request.cancel()
        response = execution.next(20)
        assert response is not None
        with response:
            assert isinstance(response.error, CancelledError)


def test_a_shape_that_does_not_fit_the_buffer(server: tc.Server) -> None:
    with server.infer("wrong_shape", {"INPUT0": np.array([1, 2], np.int32)}, timeout=20) as response:
        output = response["OUTPUT0"]
        assert (output.shape, output.nbytes) == ((4,), 8)
        with pytest.raises(ValueError, match="has 16 bytes, the buffer has 8"):
            output.numpy()
        with pytest.raises(ValueError, match="16"):
            _ = output.tensor
        assert output.buffer.nbytes == 8
        del output


# How long it stays


def test_without_views_the_buffers_go_at_once(server: tc.Server) -> None:
    response = server.infer("add_sub", pair(1), timeout=20)
    assert server.default_allocator.counts.live == 2
    assert response["OUTPUT0"].numpy().tolist() == [2]
    response.close()
    response.close()
    assert server.default_allocator.counts.live == 0


@pytest.mark.parametrize("kind", ["numpy", "slice", "buffer", "tensor", "output", "dlpack"])
def test_views_outlive_the_response(server: tc.Server, kind: str) -> None:
    response = server.infer("add_sub", pair(*range(1000)), timeout=20)
    output = response["OUTPUT0"]
    views: dict[str, Any] = {
        "numpy": lambda output: output.numpy(),
        "slice": lambda output: output.numpy()[500:],
        "buffer": lambda output: output.buffer,
        "tensor": lambda output: output.tensor,
        "output": lambda output: output,
        "dlpack": np.from_dlpack,
    }
    view = views[kind](output)
    del output
    response.close()
    del response
    gc.collect()
    assert server.default_allocator.counts.live == 2
    array = view if isinstance(view, np.ndarray) else view.numpy()
    raw = array.view(np.int32) if array.dtype == np.uint8 else array
    assert raw[-1] == 2 * 999
    del view, array, raw
    gc.collect()
    assert server.default_allocator.counts.live == 0


def test_copies_do_not_hold_the_response(server: tc.Server) -> None:
    with server.infer("identity_BYTES", {"INPUT0": VALUES["BYTES"]}, timeout=20) as response:
        copy = response["OUTPUT0"].numpy()
    assert server.default_allocator.counts.live == 0
    assert copy.tolist() == VALUES["BYTES"].tolist()


def test_a_view_outlives_the_next_use_of_the_request(server: tc.Server) -> None:
    views = []
    with server.request("identity_INT32") as request:
        for value in range(10):
            request.set_input("INPUT0", np.full(100, value, np.int32))
            with request.infer(timeout=20) as response:
                views.append(response["OUTPUT0"].numpy())
    assert [set(view.tolist()) for view in views] == [{value} for value in range(10)]


def test_use_after_close(server: tc.Server) -> None:
    response = server.infer("add_sub", pair(1), timeout=20)
    output = response["OUTPUT0"]
    response.close()
    for use in (lambda: response.outputs, lambda: response.id, lambda: response.error, lambda: response["OUTPUT0"]):
        with pytest.raises(ClosedError, match="this inference response is closed"):
            use()
    with pytest.raises(ClosedError):
        output.label(0)
    assert output.numpy().tolist() == [2]


def test_views_are_of_one_memory(server: tc.Server) -> None:
    with server.infer("add_sub", pair(1, 2), timeout=20) as response:
        first, second = response["OUTPUT0"].numpy(), response["OUTPUT0"].numpy()
        assert np.shares_memory(first, second)
        assert first.__array_interface__["data"][0] == response["OUTPUT0"].address
        assert np.from_dlpack(response["OUTPUT0"]).tolist() == [2, 4]
        del first, second


# Outputs that the native call read when it brought the response


def test_outputs_of_other_shapes_in_turn(server: tc.Server) -> None:
    """What is known of an output is that of its own response, whatever came since."""
    given = [np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) for rows, columns in ((2, 3), (1, 4))]
    with server.request("matrix", {"INPUT0": given[0]}) as request, ExitStack() as stack:
        responses = []
        for turn in range(6):
            request.set_input("INPUT0", given[turn // 2 % 2])
            responses.append(stack.enter_context(request.infer(timeout=20)))
        for turn, response in enumerate(responses):
            array = given[turn // 2 % 2]
            output = response["OUTPUT0"]
            assert (output.shape, output.nbytes) == (array.shape, array.nbytes)
            assert output.numpy().tolist() == array.tolist()
            assert list(response.outputs) == ["OUTPUT0"]
            assert response.outputs["OUTPUT0"] is output
            with pytest.raises(Error, match="has no output 'OUTPUT9'; it has OUTPUT0"):
                response["OUTPUT9"]
            del output


@pytest.mark.parametrize(("count", "prefix"), [(1, "OUTPUT"), (4, "OUTPUT"), (5, "OUTPUT"), (2, "OUTPUT" + 40 * "_")])
def test_many_outputs_and_long_names(
    make_server: Callable[..., tc.Server], tools: Any, tmp_path: Path, count: int, prefix: str
) -> None:
    names = [f"{prefix}{index}" for index in range(count)]
    inputs = {name.replace("OUT", "IN"): np.array([index, 7], np.int32) for index, name in enumerate(names)}
    tools.add_model(
        *(tmp_path, "model", "identity", [(name, "INT32", [-1]) for name in inputs]),
        [(name, "INT32", [-1]) for name in names],
    )
    server = make_server(tmp_path, startup_models=["model"])
    with server.request("model", inputs) as request:
        for _ in range(3):
            for response in (request.infer(timeout=20), server.infer("model", inputs, timeout=20)):
                with response:
                    for index in reversed(range(count)):
                        assert response[names[index]].numpy().tolist() == [index, 7]
                    assert list(response.outputs) == names


def test_a_closed_response_has_no_outputs(server: tc.Server) -> None:
    with server.request("add_sub", pair(1)) as request:
        for _ in range(3):
            response = request.infer(timeout=20)
            response.close()
            with pytest.raises(ClosedError):
                response["OUTPUT0"]
            with pytest.raises(ClosedError):
                response.outputs  # noqa: B018


def test_an_error_between_two_answers(server: tc.Server) -> None:
    with server.request("add_sub", pair(5, 5)) as request:
        for length in (2, 1, 2, 2, 1, 2):
            request.set_input("INPUT1", np.full(length, 5, np.int32))
            if length == 2:
                with request.infer(timeout=20) as response:
                    assert response["OUTPUT0"].numpy().tolist() == [10, 10]
                continue
            with pytest.raises(Error):
                request.infer(timeout=20)
            with server.infer_many([request]) as responses:
                assert responses.failed == [0]
                with pytest.raises(Error, match="no output 'OUTPUT0'"):
                    responses[0]["OUTPUT0"]


def test_an_interrupt_while_outputs_are_decoded(server: tc.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next answer of that kind is not taken for one of the kind before."""
    with server.request("identity_INT32", {"INPUT0": np.arange(4, dtype=np.int32)}) as request:
        for _ in range(2):
            request.infer(timeout=20).close()
        request.set_input("INPUT0", np.arange(1000, dtype=np.int32))

        def strike(_look: object, _count: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Look, "_decoded", strike)
            with pytest.raises(KeyboardInterrupt):
                request.infer(timeout=20)
        with request.infer(timeout=20) as response:
            assert response["OUTPUT0"].shape == (1000,)


def test_a_pointer_read_while_another_thread_closes(server: tc.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()
    cast = ctypes.cast

    def slow(pointer: Any, kind: Any) -> Any:
        if threading.current_thread() is reader:
            inside.set()
            go.wait(20)
        return cast(pointer, kind)

    with server.request("add_sub", pair(1)) as request:
        response = request.infer(timeout=20)
        reader = threading.Thread(target=lambda: response.pointer)
        monkeypatch.setattr("tritoncapi.response.ctypes", SimpleNamespace(**{**vars(ctypes), "cast": slow}))
        reader.start()
        assert inside.wait(20)
        response.close()
        go.set()
        reader.join()
        assert response.closed
        request.infer(timeout=20).close()
        response.close()


def test_two_threads_that_read_one_response_share_its_lease(server: tc.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()
    views: list[Any] = []

    def slow() -> Lease:
        if threading.current_thread() is reader:
            inside.set()
            go.wait(0.2)  # the other one waits for the lock meanwhile, and not for ever
        return Lease()

    with server.request("add_sub", pair(1, 2)) as request:
        response = request.infer(timeout=20)
        monkeypatch.setattr("tritoncapi.response.Lease", slow)
        reader = threading.Thread(target=lambda: views.append(response["OUTPUT0"].numpy()))
        reader.start()
        assert inside.wait(20)
        mine = response["OUTPUT1"].numpy()
        reader.join()
        response.close()
        views.clear()
        assert server.default_allocator.counts.live == 2
        assert mine.tolist() == [0, 0]
        del mine
    assert server.default_allocator.counts.live == 0


def test_a_signal_within_close_loses_no_response(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    """Strikes of a handler that raises, as Ctrl-C's does, at any moment of close()."""

    class Struck(BaseException):
        pass

    def strike(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    struck, end = 0, time.monotonic() + 2
    try:
        while struck < 50 or time.monotonic() < end:
            response = requests[0].infer()
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + struck % 20))
                    response.close()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Struck:
                struck += 1
            response.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert server.default_allocator.counts.live == 0
