"""Traces: time stamps, tensors, context, children."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi import TraceActivity as A
from tritoncapi.errors import ClosedError, InvalidArgError

TIMES = [
    *(A.REQUEST_START, A.QUEUE_START, A.COMPUTE_START, A.COMPUTE_INPUT_END),
    *(A.COMPUTE_OUTPUT_START, A.COMPUTE_END, A.REQUEST_END),
]


def pair(*values: int) -> dict[str, Any]:
    return {"INPUT0": np.array(values, np.int32), "INPUT1": np.array(values, np.int32)}


def run(server: tc.Server, trace: tc.Trace, **settings: Any) -> None:
    server.infer("add_sub", pair(1, 2), trace=trace, timeout=20, **settings).close()
    assert trace.wait(20)
    assert trace.closed
    assert trace.errors == []


def test_a_new_trace(library: tc.Library) -> None:
    with tc.Trace(parent_id=7) as trace, tc.Trace() as other:
        assert trace.id not in (0, other.id)
        assert (trace.parent_id, other.parent_id) == (7, 0)
        assert (trace.model, trace.request_id, trace.context) == (("", -1), "", "")
        assert not trace.wait(0)
        trace.context = '{"traceparent": "00-0af7"}'
        assert trace.context == '{"traceparent": "00-0af7"}'


def test_time_stamps(server: tc.Server) -> None:
    trace = tc.Trace(tc.TraceLevel.TIMESTAMPS)
    trace_id = trace.id
    run(server, trace, id="me")
    assert [activity.activity for activity in trace.activities] == TIMES
    stamps = [activity.timestamp_ns for activity in trace.activities]
    assert stamps == sorted(stamps)
    assert {(a.trace_id, a.parent_id, a.model) for a in trace.activities} == {(trace_id, 0, "add_sub")}
    assert trace.tensors == []


def test_time_stamps_are_of_pythons_clock(server: tc.Server) -> None:
    import time

    before = time.monotonic_ns()
    trace = tc.Trace()
    run(server, trace)
    assert before <= trace.activities[0].timestamp_ns <= trace.activities[-1].timestamp_ns <= time.monotonic_ns()


def test_tensors(server: tc.Server) -> None:
    trace = tc.Trace(tc.TraceLevel.TENSORS)
    run(server, trace)
    assert trace.activities == []
    seen = [(t.activity, t.name, t.datatype, t.shape, t.place, t.numpy().tolist()) for t in trace.tensors]
    assert seen == [
        (A.TENSOR_QUEUE_INPUT, "INPUT0", tc.DataType.INT32, (2,), tc.CPU, [1, 2]),
        (A.TENSOR_QUEUE_INPUT, "INPUT1", tc.DataType.INT32, (2,), tc.CPU, [1, 2]),
        (A.TENSOR_BACKEND_OUTPUT, "OUTPUT0", tc.DataType.INT32, (2,), tc.CPU, [2, 4]),
        (A.TENSOR_BACKEND_OUTPUT, "OUTPUT1", tc.DataType.INT32, (2,), tc.CPU, [0, 0]),
    ]


def test_both(server: tc.Server) -> None:
    trace = tc.Trace(tc.TraceLevel.TIMESTAMPS | tc.TraceLevel.TENSORS)
    run(server, trace)
    assert [activity.activity for activity in trace.activities] == TIMES
    assert len(trace.tensors) == 4


def test_nothing_at_all(server: tc.Server) -> None:
    trace = tc.Trace(tc.TraceLevel.DISABLED)
    run(server, trace)
    assert (trace.activities, trace.tensors) == ([], [])


def test_an_activity_of_ones_own(server: tc.Server) -> None:
    with tc.Trace() as trace:
        trace.report("mine", 77)
        assert [(a.activity, a.timestamp_ns) for a in trace.activities] == [(A.CUSTOM_ACTIVITY, 77)]
        assert trace.errors == []


def test_a_child(library: tc.Library) -> None:
    with tc.Trace() as trace:
        trace.context = "mine"
        child = trace.spawn_child()
        api = library.api
        try:
            assert api.InferenceTraceParentId(child) == trace.id
            assert api.InferenceTraceId(child) not in (0, trace.id)
            api.InferenceTraceReportActivity(child, 5, b"of the child")
            assert trace.activities[-1].parent_id == trace.id, "children report here too"
        finally:
            api.InferenceTraceDelete(child)


def test_an_ensemble_makes_children(make_server: Any, repository: Any) -> None:
    # On a new server: in Triton 2.51 the deletion of any server takes the memory pool that ensembles need from all.
    server = make_server(repository, startup_models=["ensemble"])
    given = {"A": np.array([1, 2], np.int32), "B": np.array([10, 20], np.int32)}
    trace = tc.Trace(tc.TraceLevel.TIMESTAMPS | tc.TraceLevel.TENSORS)
    root = trace.id
    with server.infer("ensemble", given, trace=trace, timeout=20) as response:
        assert response["SUM"].numpy().tolist() == [21, 42]
    assert trace.wait(20)
    assert trace.errors == []
    by_model: dict[str, set[int]] = {}
    for activity in trace.activities:
        by_model.setdefault(activity.model, set()).add(activity.trace_id)
    assert by_model["ensemble"] == {root}
    assert len(by_model["add_sub"]) == 2
    assert {a.parent_id for a in trace.activities if a.model == "add_sub"} == {root}
    for child in by_model["add_sub"]:
        assert [a.activity for a in trace.activities if a.trace_id == child] == TIMES
    ends = [a for a in trace.activities if a.activity == A.REQUEST_END]
    assert ends[-1].trace_id == root, "the root ends last"
    assert any(t.name == "INPUT0" and t.numpy().tolist() == [11, 22] for t in trace.tensors)


def test_what_a_trace_says_while_it_runs(server: tc.Server, tools: Any) -> None:
    from tritoncapi import trace as module

    seen = []
    trace = tc.Trace()
    api = server.library.api

    class Seen(list):  # type: ignore[type-arg]
        def append(self, item: Any) -> None:
            super().append(item)
            if item.activity == A.QUEUE_START:
                seen.append((item.model, item.trace_id))

    trace.activities = Seen()
    pointer = trace.pointer
    with server.request("queued_slow", {"INPUT0": np.zeros((1, 1), np.int32)}, id="me") as request:
        execution = request.start(trace=trace)
        assert api.InferenceTraceRequestId(pointer) == b"me"
        assert (api.InferenceTraceModelName(pointer), api.InferenceTraceModelVersion(pointer)) == (b"queued_slow", 1)
        assert tools.wait_for(lambda: bool(seen))
        request.cancel()
        assert execution.wait(20)
    assert trace.wait(20)
    assert trace not in module._running


def test_a_refused_submission_gives_the_trace_back(server: tc.Server) -> None:
    with tc.Trace() as trace:
        number = trace.id
        with pytest.raises(InvalidArgError), server.request("add_sub") as request:
            request.infer(trace=trace)
        assert not trace.closed
        gone = tc.ResponseAllocator()
        gone.close()
        with pytest.raises(ClosedError, match="this response allocator is closed"):
            server.infer("add_sub", pair(1), trace=trace, allocator=gone)
        assert trace.id == number
        run(server, trace)
        assert len(trace.activities) >= len(TIMES)


def test_a_trace_serves_once(server: tc.Server) -> None:
    trace = tc.Trace()
    run(server, trace)
    with pytest.raises(ClosedError, match="this inference trace is closed"):
        server.infer("add_sub", pair(1), trace=trace)
    for use in (lambda: trace.id, lambda: trace.report("x", 1), trace.spawn_child):
        with pytest.raises(ClosedError):
            use()


def test_many_traces_leave_nothing(server: tc.Server) -> None:
    from tritoncapi import trace as module

    before = len(module._traces)
    for _ in range(50):
        run(server, tc.Trace(tc.TraceLevel.TIMESTAMPS | tc.TraceLevel.TENSORS))
    with tc.Trace():
        pass
    assert len(module._traces) == before
    assert not module._running


def test_an_error_in_a_callback_is_kept(server: tc.Server) -> None:
    class Broken(list):  # type: ignore[type-arg]
        def append(self, item: Any) -> None:
            raise ValueError("full")

    trace = tc.Trace(tc.TraceLevel.TIMESTAMPS | tc.TraceLevel.TENSORS)
    trace.activities = Broken()
    trace.tensors = Broken()
    server.infer("add_sub", pair(1), trace=trace, timeout=20).close()
    assert trace.wait(20)
    assert {str(error) for error in trace.errors} == {"full"}
    assert len(trace.errors) == len(TIMES) + 4
