"""Responses that were closed and stay for a while: until the next to their request comes, or somebody looks."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi.errors import InFlightError, InternalError

ONE = {"INPUT0": np.array([1], np.int32)}


def pair(left: int = 1, right: int = 2) -> dict[str, Any]:
    return {"INPUT0": np.array([left], np.int32), "INPUT1": np.array([right], np.int32)}


def sums(responses: tc.Responses) -> list[int]:
    return [int(response["OUTPUT0"].numpy()[0]) for response in responses]


def test_small_ones_are_put_aside_and_do_not_count(server: tc.Server) -> None:
    allocator = server.default_allocator
    with server.request("add_sub", pair()) as request:
        for _ in range(5):
            request.infer().close()
            assert request._run.aside
        assert allocator.counts.live == 0
        assert not request._run.aside, "who looks at the counts sees what is held"
        first, second = request.infer(), request.infer()
        first.close()
        second.close()  # there is room for one
        assert request._run.aside
        assert allocator.counts.live == 0
        request.infer().close()
    assert not request._run.aside or request._run.aside == 2**64 - 1
    with server.request("add_sub", pair()) as request:
        kept = request.infer()
    kept.close()  # after its request
    assert allocator.counts.live == 0


def test_large_ones_are_not(server: tc.Server) -> None:
    values = np.zeros(1 << 19, np.int32)
    with (
        server.request("add_sub", {"INPUT0": values, "INPUT1": values}) as large,
        server.request("add_sub", pair()) as small,
    ):
        large.infer().close()
        assert not large._run.aside
        with large.infer():
            small.infer().close()
            assert not small._run.aside, "much is out: nothing more is held"
        server.infer_many([large, small]).close()
        assert not large._run.aside
        small.infer().close()
        assert small._run.aside


def test_an_answer_of_another_allocator_in_between(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request, tc.CallableAllocator(lambda *_: tc.CPU) as python:
        held = request.infer()
        request.infer(allocator=python).close()
        held.close()
        assert request._run.aside
        with tc.ResponseAllocator() as allocator:
            request.infer(allocator=allocator).close()
            assert allocator.counts.live == 0
    assert server.default_allocator.counts.live == 0


def pooled() -> tc.ResponseAllocator:
    return tc.ResponseAllocator(reuse=True, keep_records=False)


def test_those_of_an_allocator_that_keeps_buffers_are_put_aside_too(
    server: tc.Server, requests: list[tc.InferenceRequest]
) -> None:
    with pooled() as allocator:
        for _ in range(5):
            with server.infer_many(requests, allocator=allocator) as responses:
                assert sums(responses) == [value + 100 for value in range(64)]
            assert all(request._run.aside for request in requests)
        assert allocator.counts.live == allocator.counts.live_bytes == 0
        assert not any(request._run.aside for request in requests)
        made = allocator.counts.allocations - allocator.counts.reused
        assert 2 * 64 <= made <= 2 * 2 * 64, "for those put aside, and the next"
        requests[0].infer(allocator=allocator).close()
        assert requests[0]._run.aside
        requests[0].infer().close()  # with another allocator, to the same request
        assert requests[0]._run.aside
        requests[1].infer(allocator=allocator).close()
    # It closes, although the last one had been put aside.


def test_with_records_none_are(server: tc.Server) -> None:
    with (
        server.request("add_sub", pair()) as request,
        tc.ResponseAllocator(reuse=True) as recording,
        tc.ResponseAllocator(keep_records=False) as plain,
    ):
        for allocator in (recording, plain):
            request.infer(allocator=allocator).close()
            server.infer_many([request], allocator=allocator).close()
            assert not request._run.aside
        assert all(record.released_ns for record in recording.records)


def test_responses_closed_after_their_allocator(server: tc.Server) -> None:
    """An error has no buffers: nothing keeps its allocator open."""
    wrong = {"INPUT0": np.array([1], np.int32), "INPUT1": np.array([1, 2], np.int32)}
    with server.request("add_sub", wrong) as request:
        for _ in range(5):
            with pooled() as allocator:
                many = server.infer_many([request], allocator=allocator)
                assert many.failed == [0]
                one = many[0]
            with pooled():  # which may have its memory
                one.close()
                many.close()


def test_error_responses_made_after_their_allocator_closed(
    make_server: Callable[..., tc.Server], repository: Path
) -> None:
    server = make_server(repository, startup_models=["fail_request"])
    with server.request("fail_request", ONE) as request:
        with pooled() as allocator:
            many = server.infer_many([request], allocator=allocator)
        with many:
            assert isinstance(many[0].error, InternalError)
    server.close(timeout=10)


# Responses of many that nobody looked at stay where they came


def out(allocator: Any) -> int:
    """Buffers that are out, without the look of ``counts``, which makes them come back."""
    return int(allocator._count().live)


def send(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    """Twice: from the second time on it is the short way."""
    for _ in range(2):
        server.infer_many(requests).close()


def test_they_stay_until_the_next_ones_come(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    allocator = server.default_allocator
    for _ in range(3):
        send(server, requests)
        assert 2 * 64 <= out(allocator) <= 2 * 2 * 64, "and those that were put aside with the requests"
        with server.infer_many(requests) as responses:
            assert sums(responses) == [value + 100 for value in range(64)]
    send(server, requests)
    assert allocator.counts.live == 0
    assert out(allocator) == 0
    with server.infer_many(requests) as responses:
        assert sums(responses) == [value + 100 for value in range(64)]


@pytest.mark.parametrize("number", [0, 7])
@pytest.mark.parametrize("end", ["close", "release"])
def test_they_go_with_one_of_the_requests(
    server: tc.Server, requests: list[tc.InferenceRequest], number: int, end: str
) -> None:
    others = requests[:number] + requests[number + 1 :]
    send(server, requests)
    open_ones = server.infer_many(requests)
    send(server, others)
    if end == "close":
        requests[number].close()
    else:
        server.library.api.InferenceRequestDelete(requests[number].release())
    server.default_allocator.counts  # noqa: B018 - the others' go
    assert out(server.default_allocator) == 2 * 64, "those that are open"
    open_ones.close()
    assert out(server.default_allocator) == 0, "closed later, none stays"
    with server.infer_many(others) as responses:
        assert len(sums(responses)) == 63


def test_the_same_first_request_of_others(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    allocator = server.default_allocator
    for count in (64, 3, 5, 64, 2):
        send(server, requests[:count])
        assert len(requests[0]._batches) == 1
        assert sum(len(request._batches) for request in requests) == count
    for request in requests[2:]:
        request.close()
    assert out(allocator) == 2 * 2
    for request in requests[:2]:
        request.close()
    assert out(allocator) == 0


def test_overlapping_lists(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    for _ in range(3):
        for first in range(5):
            send(server, requests[first : first + 5])
    assert [len(request._batches) for request in requests[:10]] == [1, 2, 3, 4, 5, 4, 3, 2, 1, 0]
    requests[4].close()
    assert not any(request._batches for request in requests)
    assert server.default_allocator.counts.live == 0


def test_no_request_is_in_many_batches(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    for first in range(64):
        send(server, requests[first:] + requests[:first])
        assert max(len(request._batches) for request in requests) == min(8, first + 1)
    assert out(server.default_allocator) <= 8 * 2 * 64
    assert server.default_allocator.counts.live == 0


def test_of_many_open_at_a_time_those_of_one_stay(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    send(server, requests)
    server.default_allocator.counts  # noqa: B018
    for _ in range(3):
        some = [server.infer_many(requests) for _ in range(10)]
        for responses in some:
            responses.close()
        assert out(server.default_allocator) <= 2 * 2 * 64, "and those that were put aside with the requests"
    assert server.default_allocator.counts.live == 0


def test_large_ones_of_many_do_not_stay(server: tc.Server) -> None:
    values = np.zeros(1 << 18, np.int32)
    with server.request("add_sub", {"INPUT0": values, "INPUT1": values}) as large:
        send(server, [large])
        assert out(server.default_allocator) == 0


def test_an_allocator_closes_with_them(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    for _ in range(2):
        with pooled() as allocator:
            for _ in range(3):
                server.infer_many(requests, allocator=allocator).close()
            assert out(allocator) >= 2 * 64
        with server.infer_many(requests) as responses:
            assert sums(responses)[1] == 101


def test_a_server_closes_with_them(make_server: Callable[..., tc.Server], repository: Path) -> None:
    server = make_server(repository, startup_models=["add_sub"])
    requests = [server.request("add_sub", pair(value, 100)) for value in range(5)]
    send(server, requests)
    server.close(timeout=10)
    assert all(request.closed for request in requests)


def test_forgotten_requests_take_them_along(server: tc.Server) -> None:
    requests = [server.request("add_sub", pair()) for _ in range(5)]
    send(server, requests)
    assert out(server.default_allocator) == 2 * 5
    pointers = [request._pointer for request in requests]
    for request in requests:
        request._pointer = None  # closed by no close()
    del requests, request
    gc.collect()
    for pointer in pointers:
        server.library.api.InferenceRequestDelete(pointer)
    assert out(server.default_allocator) == 0


def test_threads_look_and_send_at_the_same_time(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    allocator = server.default_allocator
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            allocator.counts  # noqa: B018

    def send_some(some: list[tc.InferenceRequest]) -> None:
        while not stop.is_set():
            with suppress(InFlightError):
                server.infer_many(some).close()

    lists = [requests[:20], requests[:20], requests[10:30], requests[10:30]]
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(look), *(pool.submit(send_some, some) for some in lists)]
        try:
            for _ in range(300):
                with server.infer_many(requests[40:]) as responses:
                    assert sums(responses) == [value + 100 for value in range(40, 64)]
                server.infer_many(requests[40:]).close()
                with server.request("add_sub", pair()) as passing:
                    server.infer_many([passing, requests[39]]).close()
        finally:
            stop.set()
        for other in others:
            other.result()
    assert allocator.counts.live == 0


def test_threads_close_requests_that_were_sent_together(server: tc.Server) -> None:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(100):
                requests = [server.request("add_sub", pair(value, 1)) for value in range(12)]
                for first in range(12):
                    server.infer_many(requests[first:] + requests[:first]).close()
                start = threading.Barrier(4)

                def close(some: list[tc.InferenceRequest], start: threading.Barrier = start) -> None:
                    start.wait()
                    for request in some:
                        request.close()

                for closing in [pool.submit(close, requests[number::4]) for number in range(4)]:
                    closing.result()
                assert all(request.closed for request in requests)
    finally:
        sys.setswitchinterval(usual)
    assert out(server.default_allocator) == 0


def test_looks_leave_few_idle(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    some = [server.infer_many(requests[:3]) for _ in range(20)]
    for responses in some:
        responses.close()
    batch = requests[0]._batch
    assert batch is not None
    assert len(batch.idle) <= 5
    for _ in range(3):
        held, batch.idle = batch.idle, []
        send(server, requests[:3])
        batch.idle += held
        server.default_allocator.counts  # noqa: B018
        assert len(batch.idle) <= 4


def test_an_interrupt_before_they_rest(
    server: tc.Server, requests: list[tc.InferenceRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(server, requests[:4])
    server.default_allocator.counts  # noqa: B018
    responses = server.infer_many(requests[:4])
    server.infer_many(requests[:4]).close()  # of these some may stay already

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(responses._batch, "rest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            responses.close()
    responses.close()
    assert out(server.default_allocator) == 2 * 4, "those of the others"
    assert server.default_allocator.counts.live == 0


@pytest.mark.parametrize("looked_at", [False, True])
def test_an_interrupt_within_close_leaves_none(
    server: tc.Server, requests: list[tc.InferenceRequest], looked_at: bool
) -> None:
    def interrupted(_: int) -> int:
        raise KeyboardInterrupt

    responses = server.infer_many(requests[:4])
    if looked_at:
        assert sums(responses)[0] == 100
    batch = responses._batch
    batch.put_aside = interrupted
    with pytest.raises(KeyboardInterrupt):
        responses.close()
    batch.put_aside = server.library.native.many_put_aside
    for _ in range(3):
        with server.infer_many(requests[:4]) as again:
            assert sums(again) == [100, 101, 102, 103]
    assert server.default_allocator.counts.live == 0
