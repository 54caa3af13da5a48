"""InferenceRequest: to whom it belongs while it runs, and how it is answered."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi.errors import (
    CancelledError,
    ClosedError,
    Error,
    InFlightError,
    InternalError,
    InvalidArgError,
    TritonError,
    UnavailableError,
)


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


def pair(left: int = 1, right: int = 2) -> dict[str, Any]:
    return {"INPUT0": ints(left), "INPUT1": ints(right)}


def sum_of(request: tc.InferenceRequest, **settings: Any) -> list[int]:
    with request.infer(timeout=20, **settings) as response:
        values: list[int] = response["OUTPUT0"].numpy().tolist()
        return values


def test_used_a_thousand_times(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request:
        for value in range(1000):
            execution = request.start()
            assert execution.wait(20)
            progress = execution.progress
            assert (progress.responses, progress.finals, progress.releases, progress.done) == (1, 1, 1, True)
            response = execution.poll()
            assert response is not None
            assert execution.poll() is None
            assert response["OUTPUT0"].numpy()[0] == 3, value
            response.close()
        assert progress.start_ns <= progress.first_response_ns <= max(progress.final_ns, progress.release_ns)


def test_in_flight_it_is_tritons(server: tc.Server) -> None:
    with server.request("slow", {"INPUT0": ints(1)}) as request:
        assert not request.in_flight
        execution = request.start()
        assert request.in_flight
        for use in (
            lambda: request.id,
            lambda: setattr(request, "id", "x"),
            lambda: request.add_output("OUTPUT0"),
            lambda: request.set_input("INPUT0", ints(2)),
            request.remove_all_inputs,
            request.start,
            request.infer,
        ):
            with pytest.raises(InFlightError, match="in flight"):
                use()
        assert not request.is_cancelled
        request.cancel()
        assert request.is_cancelled
        assert execution.wait(20)
        assert not request.in_flight
        assert request.id == ""
        with pytest.raises(CancelledError):
            _response_of(execution)


def _response_of(execution: tc.Execution) -> None:
    response = execution.next(20)
    assert response is not None
    with response:
        response.raise_for_error()


def test_cancel_before_the_submission(request_: tc.InferenceRequest) -> None:
    for use in (request_.cancel, lambda: request_.is_cancelled):
        with pytest.raises(InternalError, match="before calling TRITONSERVER_InferAsync"):
            use()


def test_used_again_after_it_was_cancelled(server: tc.Server) -> None:
    with server.request("slow", {"INPUT0": ints(1)}) as request:
        for _ in range(3):
            execution = request.start()
            request.cancel()
            assert execution.wait(20)
            response = execution.poll()
            assert response is not None
            with response:
                assert isinstance(response.error, CancelledError)


def test_a_time_limit(server: tc.Server) -> None:
    with server.request("slow", {"INPUT0": ints(1)}) as request:
        with pytest.raises(tc.InferTimeout, match=r"no answer within 0\.02 s: 0 response") as caught:
            request.infer(timeout=0.02)
        assert isinstance(caught.value, TimeoutError)
        assert request.in_flight


def test_closed_in_flight(server: tc.Server, tools: Any) -> None:
    request = server.request("slow", {"INPUT0": ints(1)})
    execution = request.start()
    request.close()
    request.close()
    assert request.closed
    assert tools.wait_for(lambda: execution.done)
    for use in (lambda: request.id, request.cancel, request.start):
        with pytest.raises(ClosedError):
            use()


def test_the_data_of_a_request_closed_in_flight_stays(server: tc.Server, tools: Any) -> None:
    import weakref

    data = np.zeros(1000, np.int32)
    alive = weakref.ref(data)
    with server.request("slow", {"INPUT0": data}) as request:
        del data
        request.start()
        assert alive() is not None
    gc.collect()
    assert tools.wait_for(lambda: gc.collect() >= 0 and alive() is None), "it was never let go"


def test_closed_with_a_response_that_nobody_took(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request:
        assert request.start().wait(20)


def test_started_again_with_a_response_that_nobody_took(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request:
        assert request.start().wait(20)
        assert sum_of(request) == [3]


def test_forgotten_in_flight(server: tc.Server, tools: Any) -> None:
    from tritoncapi import request as module

    made = server.request("slow", {"INPUT0": np.zeros(1000, np.int32)})
    execution = made.start()
    pointer, before = made._pointer, len(module._forgotten)
    with pytest.warns(ResourceWarning, match="unclosed inference request"):
        del made
        gc.collect()
    assert len(module._forgotten) == before + 1, "its data is free while Triton reads it"
    server.library.api.InferenceRequestCancel(pointer)
    assert execution.wait(20)
    execution.forget()
    server.library.api.InferenceRequestDelete(pointer)
    module._forgotten.pop()


# Models that do not keep the rules


def test_a_model_that_never_answers(server: tc.Server) -> None:
    with server.request("no_answer", {"INPUT0": ints(1)}) as request:
        execution = request.start()
        assert execution.wait(0.05) is False
        assert execution.released
        with pytest.raises(tc.InferTimeout, match="the model released the request and sent no final response"):
            execution.next(0.01)
        assert request.in_flight


def test_a_model_that_answers_twice(server: tc.Server) -> None:
    with server.request("answer_twice", {"INPUT0": ints(1)}) as request:
        with pytest.raises(Error, match="the model sent 2 responses where one is due"):
            request.infer(timeout=20)
        execution = request.start()
        assert execution.wait(20)
        assert (execution.progress.responses, execution.progress.finals, execution.progress.releases) == (2, 2, 1)


def test_a_request_that_is_never_released(child: Any, tmp_path: Any, backends: Any, tools: Any) -> None:
    tools.add_model(tmp_path, "kept", fault="never_release")
    source = """
import os, sys, numpy as np, tritoncapi as tc
server = tc.Server(sys.argv[1], backend_directory=sys.argv[2], log_info=False, startup_models=["kept"])
request = server.request("kept", {"INPUT0": np.array([1], np.int32)})
try:
    request.infer(timeout=0.05)
except tc.InferTimeout as error:
    print(error)
print(request.in_flight)
request.close()
try:
    server.close(timeout=0.2)
except tc.StopTimeout as error:
    print(error)
"""
    lines = child(source, tmp_path, backends).splitlines()
    assert lines[0].endswith("the model sent its final response and did not release the request")
    assert lines[1] == "True"
    assert "kept is UNLOADING; 1 request(s) never came back" in lines[2]


def test_an_execution_that_fails_as_a_whole(server: tc.Server) -> None:
    with pytest.raises(InternalError, match="planted fault: fail_execute"):
        server.infer("fail_execute", {"INPUT0": ints(1)}, timeout=20)


# Queues, sequences, streams


def test_a_request_that_waits_too_long_in_the_queue(server: tc.Server, tools: Any) -> None:
    given = {"INPUT0": np.zeros((1, 1), np.int32)}
    before = [server.request("queued_slow", given) for _ in range(6)]  # more than the instance takes ahead
    with server.request("queued_slow", given, timeout_us=1) as request:
        for other in before:
            other.start()
        execution = request.start()
        for other in before:  # Triton looks at the queue again when one is through
            other.close()
        response = execution.next(20)
        assert response is not None
        with response:
            assert isinstance(response.error, UnavailableError)
            assert "Request timeout expired" in str(response.error)


def test_sequences(server: tc.Server) -> None:
    start, end = tc.RequestFlag.SEQUENCE_START, tc.RequestFlag.SEQUENCE_END

    def step(correlation_id: int | str, value: int, flags: tc.RequestFlag | None = None) -> int:
        settings = {"correlation_id": correlation_id, "flags": flags or tc.RequestFlag(0)}
        with server.infer("accumulate", {"INPUT": ints(value)}, timeout=20, **settings) as response:
            return int(response["OUTPUT"].numpy()[0])

    assert step(1, 10, start) == 10
    assert step(1, 5) == 15
    assert step(1, 1, end) == 16
    assert step("by name", 7, start) == 7
    assert step("by name", 1, end) == 8
    assert step(2, 3, start | end) == 3
    with pytest.raises(InvalidArgError, match="must specify the START flag"):
        step(1, 1)
    with pytest.raises(InvalidArgError, match="must specify a non-zero or non-empty correlation ID"):
        step(0, 1, start)


def repeat(*values: int, delay_ms: int = 0) -> dict[str, Any]:
    return {"IN": ints(*values), "DELAY": np.full(len(values), delay_ms, np.uint32)}


def values_of(responses: Any) -> list[int]:
    found = []
    for response in responses:
        with response:
            found.append(int(response["OUT"].numpy()[0]))
    return found


@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_a_stream(server: tc.Server, count: int) -> None:
    values = list(range(count))
    assert values_of(server.stream("repeat", repeat(*values), timeout=20)) == values
    with server.request("repeat", repeat(*values)) as request:
        for _ in range(2):
            assert values_of(request.stream(timeout=20)) == values
            assert not request.in_flight


def test_a_stream_that_is_left_early(server: tc.Server) -> None:
    stream = server.stream("repeat", repeat(*range(1000), delay_ms=10), timeout=20)
    assert values_of([next(stream)]) == [0]
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_that_stalls(server: tc.Server) -> None:
    with server.request("repeat", repeat(1, delay_ms=100_000)) as request:
        with pytest.raises(tc.InferTimeout, match="0 response"):
            next(request.stream(timeout=0.02))
        request.cancel()


def test_a_stream_that_ends_in_an_error(server: tc.Server) -> None:
    with server.request("repeat", repeat(*range(5), delay_ms=50)) as request:
        stream = request.stream(timeout=20)
        assert values_of([next(stream)]) == [0]
        request.cancel()
        with pytest.raises(CancelledError):
            values_of(stream)


def test_one_response_of_a_stream(server: tc.Server) -> None:
    # A decoupled model that answers once is good for infer(), one that answers otherwise is not.
    with server.infer("repeat", repeat(4), timeout=20) as response:
        assert response["OUT"].numpy().tolist() == [4]
    for values in ((), (1, 2)):
        with pytest.raises(
            Error, match=f"sent {len(values)} responses where one is due; a decoupled model needs stream"
        ):
            server.infer("repeat", repeat(*values), timeout=20)


# Threads


def test_eight_threads_on_one_server(server: tc.Server) -> None:
    barrier, wrong = threading.Barrier(8), []

    def work(index: int) -> None:
        barrier.wait(20)
        with server.request("add_sub", pair(index, 1)) as request:
            for value in range(100):
                request.set_input("INPUT1", ints(value))
                if sum_of(request) != [index + value]:
                    wrong.append((index, value))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_closed_by_one_thread_while_another_waits(server: tc.Server, tools: Any) -> None:
    request = server.request("slow", {"INPUT0": ints(1)})
    seen: list[BaseException] = []
    started = threading.Event()

    def wait() -> None:
        try:
            started.set()
            request.infer(timeout=20)
        except (CancelledError, ClosedError, Error) as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert started.wait(20)
    assert tools.wait_for(lambda: request.in_flight)
    request.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(seen) == 1


def test_errors_name_the_call(server: tc.Server) -> None:
    with pytest.raises(TritonError) as caught:
        server.request("nonsense")
    assert str(caught.value) == ("InferenceRequestNew: [NOT_FOUND] Request for unknown model: 'nonsense' is not found")


def test_an_answer_with_a_short_timeout_outlives_the_next_use(
    server: tc.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread uses the request again as soon as it is answered, before this one took its answer."""
    wait = tc.Execution.wait

    def waited(self: tc.Execution, timeout: float | None = None) -> bool:
        monkeypatch.undo()
        met = wait(self, timeout)
        request.infer().close()
        return met

    inputs = {"INPUT0": np.array([3], np.int32), "INPUT1": np.array([4], np.int32)}
    with server.request("add_sub", inputs) as request:
        monkeypatch.setattr("tritoncapi.request._FIRST_WAIT", 1000.0)  # all time-outs are short
        monkeypatch.setattr(tc.Execution, "wait", waited)
        with request.infer(timeout=20) as response:
            assert response["OUTPUT0"].numpy().tolist() == [7]
