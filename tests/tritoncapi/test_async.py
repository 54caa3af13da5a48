"""Futures, coroutines, asynchronous streams, and the thread behind them."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import wait as wait_for_futures
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi.dispatcher import dispatcher
from tritoncapi.errors import CancelledError, Error, InFlightError, InternalError, InvalidArgError


def pair(left: int = 1, right: int = 2) -> dict[str, Any]:
    return {"INPUT0": np.array([left], np.int32), "INPUT1": np.array([right], np.int32)}


ONE = {"INPUT0": np.array([1], np.int32)}


def repeat(*values: int, delay_ms: int = 0) -> dict[str, Any]:
    return {"IN": np.array(values, np.int32), "DELAY": np.full(len(values), delay_ms, np.uint32)}


def sum_of(response: tc.InferenceResponse) -> int:
    with response:
        return int(response["OUTPUT0"].numpy()[0])


# Futures


def test_a_future(server: tc.Server) -> None:
    future = server.infer_async("add_sub", pair())
    assert sum_of(future.result(20)) == 3
    assert future.done()
    assert not future.cancel()


def test_many_futures(server: tc.Server) -> None:
    futures = [server.infer_async("add_sub", pair(value, 1)) for value in range(200)]
    assert not wait_for_futures(futures, 20).not_done
    assert [sum_of(future.result()) for future in futures] == [value + 1 for value in range(200)]


def test_a_future_of_ones_own_request(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request:
        for _ in range(3):
            future = request.infer_async()
            assert sum_of(future.result(20)) == 3
            assert not request.in_flight


def test_callbacks_of_a_future_run_once(server: tc.Server) -> None:
    called = threading.Semaphore(0)
    future = server.infer_async("add_sub", pair())
    future.add_done_callback(lambda _: called.release())
    assert sum_of(future.result(20)) == 3
    assert called.acquire(timeout=20)
    assert not called.acquire(blocking=False)


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        ("fail_request", ONE, InternalError, "planted fault: fail_request"),
        ("answer_twice", ONE, Error, "2 responses where one is due"),
        ("repeat", repeat(), Error, "0 responses where one is due"),
        ("repeat", repeat(1, 2, 3), Error, "3 responses where one is due"),
    ],
)
def test_a_future_that_fails(server: tc.Server, model: str, inputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        server.infer_async(model, inputs).result(20)


def test_refused_at_once(server: tc.Server) -> None:
    with pytest.raises(InvalidArgError):
        server.infer_async("add_sub", ONE)
    with server.request("slow", ONE) as request:
        request.infer_async()
        with pytest.raises(InFlightError):
            request.infer_async()


def test_cancelling_a_future_cancels_the_request(server: tc.Server, tools: Any) -> None:
    with server.request("slow", ONE) as request:
        future = request.infer_async()
        assert future.cancel()
        assert future.cancelled()
        assert request.is_cancelled
        with pytest.raises(FutureCancelled):
            future.result(20)
        assert tools.wait_for(lambda: not request.in_flight)
    future = server.infer_async("slow", ONE)
    assert future.cancel()
    assert future.cancel()


def test_a_cancelled_future_throws_a_late_answer_away(server: tc.Server, tools: Any) -> None:
    for _ in range(50):  # answered and cancelled at nearly the same time
        future = server.infer_async("add_sub", pair())
        if not future.cancel():
            sum_of(future.result(20))
    assert tools.wait_for(lambda: server.default_allocator.counts.live == 0)


def test_a_request_closed_before_its_future(server: tc.Server) -> None:
    request = server.request("slow", ONE)
    future = request.infer_async()
    request.close()
    with pytest.raises((CancelledError, Error)):
        future.result(20)


def test_closing_the_server_ends_its_futures(repository: Any, backends: Any) -> None:
    server = tc.Server(repository, backend_directory=backends, log_info=False, startup_models=["slow", "repeat"])
    futures = [server.infer_async("slow", ONE) for _ in range(3)]
    futures.append(server.infer_async("repeat", repeat(1, delay_ms=100_000)))
    server.close(20)
    for future in futures:
        with pytest.raises(Error):
            future.result(20)


# Coroutines


def test_awaited(server: tc.Server) -> None:
    async def go() -> list[int]:
        futures = [asyncio.wrap_future(server.infer_async("add_sub", pair(value, 1))) for value in range(20)]
        return [sum_of(response) for response in await asyncio.gather(*futures)]

    assert asyncio.run(go()) == [value + 1 for value in range(20)]


def test_awaited_with_a_time_limit(server: tc.Server, tools: Any) -> None:
    async def go() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(server.infer_async("slow", ONE)), 0.02)

    asyncio.run(go())
    assert tools.wait_for(lambda: tools.open_calls(server.library) == 0), "the request was not cancelled"


async def collect(stream: Any) -> list[int]:
    found = []
    async for response in stream:
        with response:
            found.append(int(response["OUT"].numpy()[0]))
    return found


@pytest.mark.parametrize("count", [0, 1, 50])
def test_an_asynchronous_stream(server: tc.Server, count: int) -> None:
    async def go() -> list[list[int]]:
        with server.request("repeat", repeat(*range(count))) as request:
            return [await collect(request.stream_async()) for _ in range(2)]

    assert asyncio.run(go()) == [list(range(count))] * 2


def test_streams_side_by_side(server: tc.Server) -> None:
    async def one(start: int) -> list[int]:
        with server.request("repeat", repeat(*range(start, start + 20))) as request:
            return await collect(request.stream_async())

    async def go() -> list[list[int]]:
        return await asyncio.gather(*(one(start) for start in range(8)))

    assert asyncio.run(go()) == [list(range(start, start + 20)) for start in range(8)]


def test_a_stream_that_is_left_early(server: tc.Server, tools: Any) -> None:
    async def go() -> None:
        with server.request("repeat", repeat(*range(1000), delay_ms=1)) as request:
            stream: Any = request.stream_async()
            async for response in stream:
                with response:
                    assert response["OUT"].numpy()[0] == 0
                break
            await stream.aclose()
            assert request.in_flight is False or request.is_cancelled

    asyncio.run(go())
    assert tools.wait_for(lambda: tools.open_calls(server.library) == 0)
    assert tools.wait_for(lambda: server.default_allocator.counts.live == 0)


def test_a_stream_whose_loop_ends_first(server: tc.Server, tools: Any) -> None:
    request = server.request("repeat", repeat(*range(20), delay_ms=2))

    async def go() -> None:
        async for response in request.stream_async():
            response.close()
            return

    asyncio.run(go())
    assert tools.wait_for(lambda: not request.in_flight)
    request.close()


def test_a_stream_that_ends_in_an_error(server: tc.Server) -> None:
    async def go() -> None:
        with server.request("repeat", repeat(*range(5), delay_ms=50)) as request:
            stream: Any = request.stream_async()
            (await anext_(stream)).close()
            request.cancel()
            with pytest.raises(CancelledError):
                await collect(stream)

    asyncio.run(go())


async def anext_(stream: Any) -> Any:
    return await stream.__anext__()


def test_a_cancelled_task(server: tc.Server, tools: Any) -> None:
    async def go() -> None:
        with server.request("repeat", repeat(1, delay_ms=100_000)) as request:
            task = asyncio.create_task(collect(request.stream_async()))
            while not request.in_flight:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(go())
    assert tools.wait_for(lambda: tools.open_calls(server.library) == 0)


# The thread behind them


def test_one_thread_serves_all(server: tc.Server) -> None:
    server.infer_async("add_sub", pair()).result(20).close()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("tritoncapi-dispatcher") == 1
    assert dispatcher(server.library) is dispatcher(server.library)


def test_a_broken_watcher_does_not_stop_the_others(server: tc.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: seen.append(arguments.exc_type))

    def broken() -> bool:
        raise ZeroDivisionError

    with server.request("slow", ONE) as request:
        execution = request.start()
        dispatcher(server.library).watch(execution, broken, owner := object())
        assert dispatcher(server.library).wait(owner, 20) == 0
    assert seen == [ZeroDivisionError]
    assert sum_of(server.infer_async("add_sub", pair()).result(20)) == 3


def test_what_is_forgotten_already_is_looked_at_once(server: tc.Server) -> None:
    looks: list[int] = []
    with server.request("add_sub", pair()) as request:
        execution = request.start()
        assert execution.wait(20)
    assert execution.done

    def look() -> bool:
        looks.append(1)
        return True

    dispatcher(server.library).watch(execution, look, owner := object())
    assert dispatcher(server.library).wait(owner, 20) == 0
    assert looks == [1]


def test_waiting_for_nobody_and_too_long(server: tc.Server) -> None:
    assert dispatcher(server.library).wait(object(), 0.0) == 0
    with server.request("slow", ONE) as request:
        execution = request.start()
        owner = object()
        dispatcher(server.library).watch(execution, lambda: execution.done, owner)
        assert dispatcher(server.library).wait(owner, 0.01) == 1
        request.cancel()
        assert dispatcher(server.library).wait(owner, 20) == 0


def test_eight_threads_with_futures(server: tc.Server) -> None:
    wrong: list[int] = []
    barrier = threading.Barrier(8)

    def work(index: int) -> None:
        barrier.wait(20)
        futures = [server.infer_async("add_sub", pair(index, value)) for value in range(50)]
        wrong.extend(index for value, future in enumerate(futures) if sum_of(future.result(20)) != index + value)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_process_ends_well_with_all_of_this(child: Any, repository: Any, backends: Any) -> None:
    source = """
import sys, numpy as np, tritoncapi as tc
one = np.array([1], np.int32)
with tc.Server(*sys.argv[1:2], backend_directory=sys.argv[2], log_info=False, startup_models=["add_sub"]) as server:
    server.infer_async("add_sub", {"INPUT0": one, "INPUT1": one}).result(20).close()
print("through", flush=True)
sys.exit()
"""
    assert child(source, repository, backends).strip() == "through"


def test_nothing_warns(server: tc.Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        server.infer_async("add_sub", pair()).result(20).close()
        gc.collect()
