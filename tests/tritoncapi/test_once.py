"""Server.infer of plain arrays, one native call each: the same as the general way, which everything else goes."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from harness.probes import Missing, heap_probe
from tritoncapi import once, tensor
from tritoncapi.errors import ClosedError, Error, InvalidArgError, TritonError

ONE = {"INPUT0": np.array([1], np.int32)}
Make = Callable[..., tc.Server]


def pair(left: int = 1, right: int = 2) -> dict[str, Any]:
    return {"INPUT0": np.array([left], np.int32), "INPUT1": np.array([right], np.int32)}


def spy(server: tc.Server, monkeypatch: pytest.MonkeyPatch, after: Callable[[], None] = lambda: None) -> list[int]:
    """A list that grows with each native call; ``after`` is done when one returned."""
    native = server.library.native
    calls: list[int] = []

    def once_run(at: int) -> Any:
        error = native.once_run(at)
        calls.append(at)
        after()
        return error

    monkeypatch.setattr(
        server._one_call, "_native", SimpleNamespace(once_run=once_run, run_put_aside=native.run_put_aside)
    )
    return calls


@pytest.fixture
def calls(server: tc.Server, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return spy(server, monkeypatch)


def seen(response: tc.InferenceResponse) -> list[object]:
    """All that a response says of its outputs, but for their addresses."""
    with response:
        return [
            response.model,
            response.id,
            response.final,
            *(
                (output.index, output.name, output.datatype, output.shape, output.nbytes, output.place)
                for output in response
            ),
            *((output.numpy().dtype, output.numpy().tolist()) for output in response),
        ]


def generally(server: tc.Server, model: str, inputs: Any, **settings: Any) -> tc.InferenceResponse:
    """Through an InferenceRequest."""
    with server.request(model, inputs, **settings) as request:
        return request.infer(timeout=20)


PLAIN = [datatype for datatype in tc.DataType if datatype not in (0, tc.DataType.BYTES, tc.DataType.BF16)]


@pytest.mark.parametrize("datatype", PLAIN)
def test_every_plain_datatype(server: tc.Server, calls: list[int], datatype: tc.DataType) -> None:
    given = {"INPUT0": np.array([0, 1, 100]).astype(tensor.dtype_of(datatype))}
    model = f"identity_{datatype.name}"
    expected = seen(generally(server, model, given))
    for number in range(3):
        assert seen(server.infer(model, given, timeout=20)) == expected
        assert len(calls) == number + 1


def _read_only() -> Any:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    return array


FLOATS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("given", "quick"),
    [
        (FLOATS, True),
        (_read_only(), True),
        (FLOATS[1:], True),
        (FLOATS[:, :1].copy(), True),
        (FLOATS.T, False),
        (FLOATS[:, ::2], False),
        (FLOATS[::-1], False),
        (FLOATS[:0], False),
        (np.zeros((0, 5), np.float32), False),
        (FLOATS.astype(">f4"), False),
        (FLOATS.tolist(), None),
        (np.ma.masked_array(FLOATS), False),
    ],
    ids=lambda given: None if isinstance(given, bool) else type(given).__name__,
)
def test_which_arrays_are_plain(server: tc.Server, calls: list[int], given: Any, quick: bool | None) -> None:
    inputs = {"INPUT0": np.asarray(given, np.float32) if quick is None else given}
    expected = seen(generally(server, "matrix", inputs))
    if quick is None:  # a list has its numbers in double precision, which this model does not take
        with pytest.raises(InvalidArgError):
            server.infer("matrix", {"INPUT0": given})
    else:
        for _ in range(2):
            assert seen(server.infer("matrix", inputs)) == expected
    assert bool(calls) is bool(quick)


def test_what_else_goes_the_general_way(server: tc.Server, calls: list[int]) -> None:
    class Inputs(dict[str, Any]):
        pass

    everywhere: dict[str, Any] = {"allocator": tc.CallableAllocator(lambda _name, _size, place: place)}
    for settings in ({"id": "me"}, {"outputs": ["OUTPUT0"]}, {"parameters": {"a": 1}}, {"timeout": 0.005}, everywhere):
        try:
            server.infer("add_sub", pair(), **settings).close()
        except tc.InferTimeout:
            assert "timeout" in settings  # the machine was busy
    everywhere["allocator"].close()
    with tc.Trace() as trace:
        server.infer("add_sub", pair(), trace=trace).close()
    server.infer("add_sub", Inputs(pair())).close()
    server.infer("identity_BYTES", {"INPUT0": np.array([b"a"], object)}).close()
    assert calls == []
    server.infer("add_sub", pair(), version=1, timeout=20).close()
    assert len(calls) == 1


def viewed(array: Any, datatype: tc.DataType = tc.DataType.INT32) -> tc.TensorView:
    return tc.TensorView(tc.Buffer.wrap(array), datatype, array.shape)


def test_views_are_plain_too(server: tc.Server, calls: list[int]) -> None:
    for number in range(3):
        given = pair(number)
        for inputs in (
            {name: viewed(array) for name, array in given.items()},
            {"INPUT0": given["INPUT0"], "INPUT1": viewed(given["INPUT1"])},
            {"INPUT0": viewed(given["INPUT0"]), "INPUT1": given["INPUT1"]},
        ):
            with server.infer("add_sub", inputs, timeout=20) as response:
                assert response["OUTPUT0"].numpy().tolist() == [number + 2]
    assert len(calls) == 9


def test_a_view_says_each_time_what_it_is(server: tc.Server, calls: list[int]) -> None:
    view = viewed(np.arange(6, dtype=np.float32), tc.DataType.FP32)
    for shape in ((1, 6), (2, 3), (3, 2), (2, 3)):
        view.shape = shape
        with server.infer("matrix", {"INPUT0": view}, timeout=20) as response:
            assert next(iter(response)).shape == shape
    view.buffer, view.shape = tc.Buffer.wrap(np.arange(7, 9, dtype=np.float32)), (1, 2)
    with server.infer("matrix", {"INPUT0": view}, timeout=20) as response:
        assert next(iter(response)).numpy().tolist() == [[7, 8]]
    assert len(calls) == 5
    view.buffer.close()
    with pytest.raises(ClosedError):
        server.infer("matrix", {"INPUT0": view})


def test_views_of_strings(server: tc.Server, calls: list[int]) -> None:
    for text in (b"a", b"bcd", b"a"):
        view = tc.TensorView(tc.Buffer.wrap(tensor.encode(np.array([text], object))), tc.DataType.BYTES, (1,))
        with server.infer("identity_BYTES", {"INPUT0": view}, timeout=20) as response:
            assert next(iter(response)).numpy().tolist() == [text]
    assert len(calls) == 3


def test_without_an_array_as_numpy_has_it_nothing_is_plain(server: tc.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._one_call, "_usable", False)
    calls = spy(server, monkeypatch)
    server.infer("add_sub", pair()).close()
    assert calls == []


def test_the_offset_of_the_data_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensor.data_offset() == object.__basicsize__
    monkeypatch.setattr(tensor, "object", SimpleNamespace(__basicsize__=object.__basicsize__ + 8), raising=False)
    assert tensor.data_offset.__wrapped__() is None


def test_an_allocator_of_ones_own(server: tc.Server, calls: list[int]) -> None:
    with tc.ResponseAllocator() as allocator:
        for number in range(3):
            with server.infer("add_sub", pair(number), allocator=allocator) as response:
                assert response["OUTPUT0"].numpy().tolist() == [number + 2]
            server.infer("add_sub", pair()).close()
            assert allocator.counts.allocations == 2 * number + 2
    assert len(calls) == 6
    with pytest.raises(ClosedError, match="response allocator is closed"):
        server.infer("add_sub", pair(), allocator=allocator)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("nonsense", ONE),
        ("add_sub", ONE),
        ("add_sub", {}),
        ("add_sub", {"INPUT0": ONE["INPUT0"], "INPUT9": ONE["INPUT0"]}),
        ("add_sub", {"INPUT0": ONE["INPUT0"], "INPUT1": np.array([1.0])}),
        ("matrix", {"INPUT0": np.ones(3, np.float32)}),
        ("matrix", {"INPUT0": np.float32(3)}),
        ("matrix", {"INPUT0": np.array(3, np.float32)}),
        ("identity_INT32", {"INPUT\0": ONE["INPUT0"]}),
        ("identity_INT32", {3: ONE["INPUT0"]}),
        ("identity_INT32", {"INPUT0": np.array([1j])}),
        ("fail_request", ONE),
        ("fail_execute", ONE),
        ("repeat", {"IN": np.array([], np.int32), "DELAY": np.array([], np.uint32)}),
        ("repeat", {"IN": np.array([1, 2], np.int32), "DELAY": np.array([0, 0], np.uint32)}),
    ],
)
def test_the_same_errors(server: tc.Server, model: str, inputs: Any) -> None:
    with pytest.raises((Error, TypeError, ValueError)) as expected:
        generally(server, model, inputs)
    for _ in range(2):
        with pytest.raises(type(expected.value)) as caught:
            server.infer(model, inputs, timeout=20)
        assert str(caught.value) == str(expected.value)


def test_another_version(server: tc.Server) -> None:
    for call in (server.infer, lambda *arguments, **settings: generally(server, *arguments, **settings)):
        with pytest.raises(TritonError, match="version 7"):
            call("add_sub", pair(), version=7)
    with server.infer("add_sub", pair(), version=1) as response:
        assert response.model == ("add_sub", 1)


def test_outputs_of_all_kinds(make_server: Make, tmp_path: Path, tools: Any) -> None:
    """More than there is room for, long names, many dimensions: each is told right, also the second time."""
    names = [f"{number}" * 45 for number in range(6)]
    inputs = [(f"INPUT{name}", "INT32", [-1] * (9 if index == 3 else 2)) for index, name in enumerate(names)]
    outputs = [(f"OUTPUT{name}", "INT32", dims) for (_, _, dims), name in zip(inputs, names, strict=True)]
    tools.add_model(tmp_path, "wide", "identity", inputs, outputs)
    server = make_server(tmp_path, startup_models=["wide"])
    for size in (1, 2):
        given = {name: np.full((*[1] * (len(dims) - 1), size), size, np.int32) for name, _, dims in inputs}
        for _ in range(2):
            with server.infer("wide", given) as response:
                assert [output.name for output in response] == [name for name, _, _ in outputs]
                for output, array in zip(response, given.values(), strict=True):
                    assert output.shape == array.shape
                    assert output.numpy().tolist() == array.tolist()
                del output


# Longer than the native call


def test_an_answer_that_takes_longer(make_server: Make, tmp_path: Path, tools: Any) -> None:
    tools.add_model(tmp_path, "later", execute_delay_ms=40)
    server = make_server(tmp_path, startup_models=["later"])
    for _ in range(2):
        with server.infer("later", ONE) as response:
            assert response["OUTPUT0"].numpy().tolist() == [1]
    assert tools.open_calls(server.library) == 0


def test_a_time_limit(server: tc.Server, calls: list[int]) -> None:
    with pytest.raises(tc.InferTimeout, match=r"no answer within 0.05 s: 0 response\(s\) came"):
        server.infer("slow", ONE, timeout=0.05)
    assert len(calls) == 1


@pytest.mark.parametrize("model", ["add_sub", "slow"])
def test_interrupted_when_the_native_call_returns(
    server: tc.Server, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        calls = spy(server, patched, interrupt)
        for number in range(3):
            with pytest.raises(KeyboardInterrupt):
                server.infer(model, pair() if model == "add_sub" else ONE)
            assert len(calls) == number + 1
    assert not server._one_call._busy
    with server.infer("add_sub", pair()) as response:
        assert response["OUTPUT0"].numpy().tolist() == [3]


@pytest.mark.usefixtures("interruptible")
def test_interrupted_while_it_waits(server: tc.Server, tools: Any) -> None:
    def interrupt() -> None:
        assert tools.wait_for(lambda: tools.open_calls(server.library) == 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        server.infer("slow", ONE)
    thread.join()


def test_the_data_of_a_request_that_goes_on_stays(make_server: Make, tmp_path: Path, tools: Any) -> None:
    tools.add_model(tmp_path, "later", execute_delay_ms=60)
    server = make_server(tmp_path, startup_models=["later"])
    with pytest.raises(tc.InferTimeout):
        server.infer("later", {"INPUT0": np.arange(100_000, dtype=np.int32)}, timeout=0.02)
    gc.collect()
    for _ in range(10):  # what would take the array's place
        np.full(100_000, -1, np.int32)
    assert tools.wait_for(lambda: tools.open_calls(server.library) == 0)


# The server's end


def test_closed_with_one_in_flight(make_server: Make, repository: Path, tools: Any) -> None:
    server = make_server(repository, startup_models=["slow"])
    raised: list[BaseException] = []

    def work() -> None:
        try:
            server.infer("slow", ONE)
        except Error as error:
            raised.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert tools.wait_for(lambda: tools.open_calls(server.library) == 3)
    server.close(20)
    for thread in threads:
        thread.join(20)
    assert len(raised) == 3
    with pytest.raises(ClosedError, match="this server is closed"):
        server.infer("slow", ONE)


def test_closing_waits_for_who_is_within_a_call(
    make_server: Make, repository: Path, monkeypatch: pytest.MonkeyPatch, tools: Any
) -> None:
    server = make_server(repository, startup_models=["add_sub"])
    within, go_on = threading.Event(), threading.Event()

    def after() -> None:
        within.set()
        go_on.wait(20)

    spy(server, monkeypatch, after)
    found: list[list[int]] = []

    def work() -> None:
        with server.infer("add_sub", pair()) as response:
            found.append(response["OUTPUT0"].numpy().tolist())

    worker = threading.Thread(target=work)
    worker.start()
    assert within.wait(20)
    closer = threading.Thread(target=server.close)
    closer.start()
    assert tools.wait_for(lambda: server._one_call._closed)
    assert not server.closed
    go_on.set()
    for thread in (worker, closer):
        thread.join(20)
    assert server.closed
    assert found == [[3]]


def test_who_closes_within_a_call_does_not_wait_for_himself(
    make_server: Make, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server(repository, startup_models=["add_sub"])

    def close() -> None:  # as a signal's handler might
        server._one_call.close(20)
        raise KeyboardInterrupt

    spy(server, monkeypatch, close)
    with pytest.raises(KeyboardInterrupt):
        server.infer("add_sub", pair())


# Forms


def test_there_is_a_limit_to_forms(server: tc.Server, monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    monkeypatch.setattr(once, "_FORMS", 4)
    for size in [*range(1, 12), *range(1, 12)]:
        given = np.arange(size, dtype=np.int32)
        with server.infer("identity_INT32", {"INPUT0": given}) as response:
            assert response["OUTPUT0"].numpy().tolist() == given.tolist()
        assert len(server._one_call._forms) <= 4
    assert len(calls) == 22


def test_a_model_that_is_loaded_again_with_another_configuration(make_server: Make, tmp_path: Path, tools: Any) -> None:
    tools.add_model(tmp_path, "one")
    server = make_server(tmp_path, startup_models=["one"])
    three = {"INPUT0": np.array([1, 2, 3], np.int32)}
    seen(server.infer("one", three))
    server.unload("one", timeout=20)
    with pytest.raises(TritonError) as expected:
        generally(server, "one", three)
    with pytest.raises(type(expected.value), match=r"is not found|has no available|is not ready"):
        server.infer("one", three)
    server.load("one", {"config": configured(dims=2)})
    with pytest.raises(InvalidArgError, match="unexpected shape"):
        server.infer("one", three)
    server.load("one", {"config": configured(dims=-1)})
    with server.infer("one", three) as response:
        assert response["OUTPUT0"].numpy().tolist() == [1, 2, 3]


def configured(dims: int) -> str:
    tensors = {"data_type": "TYPE_INT32", "dims": [dims]}
    return json.dumps(
        {
            "name": "one",
            "backend": "tritoncapi_test",
            "input": [{"name": "INPUT0", **tensors}],
            "output": [{"name": "OUTPUT0", **tensors}],
            "instance_group": [{"kind": "KIND_CPU"}],
            "parameters": {"operation": {"string_value": "identity"}},
        }
    )


def test_two_servers(make_server: Make, tmp_path: Path, tools: Any) -> None:
    for name, operation in (("left", "add_sub"), ("right", "identity")):
        tools.add_model(tmp_path / name, "same", operation, tools.pair, tools.pair_out)
    left, right = (make_server(tmp_path / name, startup_models=["same"]) for name in ("left", "right"))
    for _ in range(3):
        for server, expected in ((left, [3]), (right, [1])):
            with server.infer("same", pair()) as response:
                assert response["OUTPUT0"].numpy().tolist() == expected
    left.close()
    with right.infer("same", pair()) as response:
        assert response["OUTPUT0"].numpy().tolist() == [1]


def test_threads(server: tc.Server) -> None:
    wrong: list[object] = []

    def work(base: int) -> None:
        for number in range(300):
            size = 1 + number % 3
            given = {name: np.full(size, base + number, np.int32) for name in ("INPUT0", "INPUT1")}
            with server.infer("add_sub", given, timeout=20) as response:
                if response["OUTPUT0"].numpy().tolist() != [2 * (base + number)] * size:
                    wrong.append((base, number))

    threads = [threading.Thread(target=work, args=(10_000 * index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not server._one_call._busy


def test_the_server_knows_which_thread_answered(make_server: Make, repository: Path) -> None:
    server = make_server(repository, startup_models=["add_sub"])
    assert "add_sub" not in server._heard_from
    server.infer("add_sub", pair()).close()
    threads = set(server._heard_from["add_sub"])
    assert threads
    server._settle()
    assert "add_sub" not in server._heard_from
    server.infer("add_sub", pair()).close()
    assert server._heard_from["add_sub"] == threads


def growth_of_heap(send: Callable[[int], None], warm_up: int, count: int) -> int:
    """Bytes that ``send(count)`` leaves behind; skips where they cannot be counted."""
    read = heap_probe().read
    if isinstance(read()["heap_in_use"], Missing):
        pytest.skip("the heap cannot be measured here")

    def in_use() -> Any:
        gc.collect()
        return read()["heap_in_use"]

    send(warm_up)
    before = in_use()
    send(count)
    return int(in_use() - before)


def test_nothing_is_left_of_20000_requests(server: tc.Server) -> None:
    inputs = pair()

    def send(count: int) -> None:
        for number in range(count):
            with server.infer("add_sub", inputs) as response:
                if number % 10 == 0:
                    assert response["OUTPUT1"].numpy()[0] == -1

    assert growth_of_heap(send, 2000, 20_000) < 20_000 * 8  # a single pointer each would be more


def test_nothing_is_left_of_error_responses(server: tc.Server) -> None:
    """Triton makes a new error each time that it is asked for a response's, and forgets it."""

    def send(count: int) -> None:
        with server.request("fail_request", ONE) as request:
            for _ in range(count):
                execution = request.start()
                assert execution.wait(60)
                response = execution.poll()
                assert response is not None
                assert isinstance(response.error, TritonError)
                response.close()
                with server.infer_many([request]) as responses:
                    assert responses.failed == [0]
        report = tc.Traffic(server, tc.Target("fail_request", ONE), requests=count).run()
        assert report.counts.errors == count

    assert growth_of_heap(send, 500, 2000) < 2000 * 3 * 20  # an error and its message are 96 B


@pytest.mark.parametrize("version", [-2, 1 << 63, 1 << 70, (1 << 64) + 1])
def test_a_version_that_no_model_can_have(server: tc.Server, version: int) -> None:
    with pytest.raises(ValueError, match="version is -1 to"):
        server.infer("add_sub", pair(), version=version)
