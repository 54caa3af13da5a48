"""infer_await: requests in an event loop, through one descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi import awaiting
from tritoncapi.errors import ClosedError, Error, InFlightError, InternalError, InvalidArgError

ONE = {"INPUT0": np.array([1], np.int32)}


def pair(left: int = 1, right: int = 2) -> dict[str, Any]:
    return {"INPUT0": np.array([left], np.int32), "INPUT1": np.array([right], np.int32)}


def sum_of(response: tc.InferenceResponse) -> int:
    with response:
        return int(response["OUTPUT0"].numpy()[0])


def test_one_after_the_other(server: tc.Server) -> None:
    async def main() -> list[int]:
        with server.request("add_sub", pair(3, 4)) as request:
            found = [sum_of(await request.infer_await()) for _ in range(20)]
            assert not request.in_flight
            return found

    assert asyncio.run(main()) == [7] * 20
    assert asyncio.run(main()) == [7] * 20  # another loop


def test_many_at_once_get_their_own_answers(server: tc.Server) -> None:
    async def client(value: int) -> list[int]:
        with server.request("add_sub", pair(value, 1000)) as request:
            return [sum_of(await request.infer_await()) for _ in range(10)]

    async def main() -> list[list[int]]:
        return await asyncio.gather(*(client(value) for value in range(200)))

    assert asyncio.run(main()) == [[value + 1000] * 10 for value in range(200)]


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        ("fail_request", ONE, InternalError, "planted fault: fail_request"),
        ("answer_twice", ONE, Error, "2 responses where one is due"),
        ("repeat", {"IN": np.array([], np.int32), "DELAY": np.array([], np.uint32)}, Error, "0 responses where"),
        ("add_sub", ONE, InvalidArgError, "expected 2 inputs"),
    ],
)
def test_what_fails(server: tc.Server, model: str, inputs: Any, error: type[Exception], message: str) -> None:
    async def main() -> None:
        with server.request(model, inputs) as request:
            for _ in range(2):
                with pytest.raises(error, match=message):
                    await request.infer_await()
                assert not request.in_flight

    asyncio.run(main())


def test_in_flight_and_closed(server: tc.Server) -> None:
    async def main() -> None:
        request = server.request("slow", ONE)
        task = asyncio.ensure_future(request.infer_await())
        await asyncio.sleep(0)
        assert request.in_flight
        with pytest.raises(InFlightError):
            await request.infer_await()
        request.close()
        with pytest.raises(Error):
            await task
        with pytest.raises(ClosedError):
            await request.infer_await()

    asyncio.run(main())


def test_cancelling_the_task_cancels_the_request(server: tc.Server, tools: Any) -> None:
    async def main() -> None:
        with server.request("slow", ONE) as request:
            task = asyncio.ensure_future(request.infer_await())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert request.is_cancelled
            assert tools.wait_for(lambda: not request.in_flight)

    asyncio.run(main())


def test_answered_and_cancelled_at_nearly_the_same_time(server: tc.Server) -> None:
    async def main() -> None:
        with server.request("add_sub", pair()) as request:
            for turn in range(60):
                task = asyncio.ensure_future(request.infer_await())
                for _ in range(turn % 6):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await task).close()
                while request.in_flight:
                    await asyncio.sleep(0)

    asyncio.run(main())


def test_a_loop_that_ends_with_requests_in_flight(server: tc.Server) -> None:
    requests = [server.request("slow", ONE) for _ in range(3)]

    async def main() -> None:
        for request in requests:
            asyncio.ensure_future(request.infer_await())  # noqa: RUF006 - nobody waits for it
        await asyncio.sleep(0)
        assert all(request.in_flight for request in requests)

    asyncio.run(main())
    for request in requests:
        request.close()


def test_loops_leave_no_descriptors(server: tc.Server) -> None:
    async def main() -> None:
        with server.request("add_sub", pair()) as request, server.request("slow", ONE) as slow:
            asyncio.ensure_future(slow.infer_await())  # noqa: RUF006 - the loop's end cancels it
            assert sum_of(await request.infer_await()) == 3

    asyncio.run(main())
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        asyncio.run(main())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


# Submitted together


def together(server: tc.Server) -> awaiting.Inbox:
    """From now on, until answers come one by one again."""
    inbox = awaiting._inbox(asyncio.get_running_loop(), server.library)
    inbox._several = True
    return inbox


def test_answers_that_come_together_are_asked_for_together(server: tc.Server) -> None:
    async def client(value: int) -> list[int]:
        with server.request("add_sub", pair(value, 1)) as request:
            return [sum_of(await request.infer_await()) for _ in range(20)]

    async def main() -> tuple[int, list[list[int]]]:
        inbox = together(server)
        posts, flush = [], inbox.flush

        def note() -> None:
            posts.append(len(inbox._queue))
            flush()

        inbox.flush = note  # type: ignore[method-assign]
        found = await asyncio.gather(*(client(value) for value in range(70)))
        return max(posts), found

    most, found = asyncio.run(main())
    assert most == awaiting._TOGETHER
    assert found == [[value + 1] * 20 for value in range(70)]


def test_refused_ones_among_others(server: tc.Server) -> None:
    async def main() -> list[Any]:
        together(server)
        given = [ONE if number % 5 == 0 else pair(number) for number in range(50)]
        requests = [server.request("add_sub", inputs) for inputs in given]
        found = await asyncio.gather(*(request.infer_await() for request in requests), return_exceptions=True)
        for request in requests:
            assert not request.in_flight
            request.close()
        return [sum_of(one) if isinstance(one, tc.InferenceResponse) else one for one in found]

    for number, one in enumerate(asyncio.run(main())):
        if number % 5:
            assert one == number + 2
        else:
            assert isinstance(one, InvalidArgError)
            assert "expected 2 inputs" in str(one)


def _look(request: tc.InferenceRequest) -> None:
    assert request.in_flight


def _use(request: tc.InferenceRequest) -> None:
    with pytest.raises(InFlightError):
        request.id = "other"


def _start(request: tc.InferenceRequest) -> None:
    with pytest.raises(InFlightError):
        request.start()


@pytest.mark.parametrize("act", [_look, _use, _start, tc.InferenceRequest.cancel, tc.InferenceRequest.close])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_asked_for_before_it_is_submitted(
    server: tc.Server, act: Callable[[tc.InferenceRequest], None], elsewhere: bool
) -> None:
    async def main() -> None:
        inbox = together(server)
        request = server.request("slow", ONE)
        task = asyncio.ensure_future(request.infer_await())
        await asyncio.sleep(0)
        assert len(inbox._queue) == 1
        if elsewhere:
            thread = threading.Thread(target=act, args=(request,))
            thread.start()
            thread.join()
        else:
            act(request)
        request.close()
        assert not inbox._queue
        with pytest.raises(Error):
            await task

    asyncio.run(main())


def test_cancelled_before_it_is_submitted(server: tc.Server, tools: Any) -> None:
    async def main() -> None:
        inbox = together(server)
        with server.request("slow", ONE) as request:
            task = asyncio.ensure_future(request.infer_await())
            await asyncio.sleep(0)
            assert len(inbox._queue) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert request.is_cancelled
            assert tools.wait_for(lambda: not request.in_flight)

    asyncio.run(main())


def test_a_loop_that_ends_before_it_is_submitted(server: tc.Server) -> None:
    loop = asyncio.new_event_loop()
    request = server.request("add_sub", pair())

    async def main() -> None:
        together(server)

    loop.run_until_complete(main())
    coroutine = request.infer_await()
    task = loop.create_task(coroutine)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert request._queued_in is not None
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    request.close()
    coroutine.close()


def test_the_server_closes_with_requests_that_are_not_submitted(make_server: Any, repository: Any) -> None:
    server = make_server(repository, startup_models=["slow"])

    async def main() -> None:
        together(server)
        requests = [server.request("slow", ONE) for _ in range(3)]
        tasks = [asyncio.ensure_future(request.infer_await()) for request in requests]
        await asyncio.sleep(0)
        closer = threading.Thread(target=server.close)
        closer.start()
        for task in tasks:
            with pytest.raises(Error):
                await task
        await asyncio.get_running_loop().run_in_executor(None, closer.join)
        assert all(request.closed for request in requests)

    asyncio.run(main())


def test_an_answer_that_is_there_is_not_lost_by_the_next_use(server: tc.Server, tools: Any) -> None:
    async def main() -> None:
        with server.request("add_sub", pair()) as request:
            for again in (lambda: request.infer().close(), request.close):
                task = asyncio.ensure_future(request.infer_await())
                await asyncio.sleep(0)
                assert tools.wait_for(lambda: not request.in_flight)
                again()
                with await task as response:
                    assert response["OUTPUT0"].numpy().size

    asyncio.run(main())


def test_loops_closed_with_tasks_that_wait_go(server: tc.Server) -> None:
    def once() -> None:
        loop = asyncio.new_event_loop()
        request = server.request("slow", {"INPUT0": np.array([1], np.int32)})

        async def ask() -> None:
            await request.infer_await()

        task = loop.create_task(ask())
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False
        loop.close()
        request.close()

    once()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        once()
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_call_that_is_used_again_before_its_key_is_collected(server: tc.Server, tools: Any) -> None:
    async def main() -> None:
        first, second = server.request("add_sub", pair()), server.request("add_sub", pair())
        with second:
            task = asyncio.ensure_future(first.infer_await())
            await asyncio.sleep(0)
            assert tools.wait_for(lambda: not first.in_flight)
            first.close()  # the answer is handed over; the key of its call still waits to be collected
            waiting = second.infer_await()
            future = waiting.send(None)  # posted, before the loop looks at what came
            assert tools.wait_for(lambda: not second.in_flight)
            (await task).close()
            (await asyncio.wait_for(future, 20)).close()
            waiting.close()

    asyncio.run(main())


def test_what_is_fetched_is_not_collected_meanwhile(
    server: tc.Server, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is used again while its answer waits for the loop; the loop must not take that at the same time."""
    outcome, held = awaiting._outcome, []

    def seen(execution: tc.Execution) -> Any:
        inbox = awaiting._latest.inbox()
        assert inbox is not None
        held.append(inbox._lock._is_owned())  # type: ignore[attr-defined]
        return outcome(execution)

    async def main() -> None:
        with server.request("add_sub", pair(3, 4)) as request:
            task = asyncio.ensure_future(request.infer_await())
            await asyncio.sleep(0)
            assert tools.wait_for(lambda: not request.in_flight), "the loop stands still meanwhile"
            monkeypatch.setattr(awaiting, "_outcome", seen)
            assert sum_of(request.infer()) == 7
            assert sum_of(await task) == 7

    asyncio.run(main())
    assert held == [True]


# A signal's handler that raises


def lines_of(function: Callable[..., Any]) -> list[tuple[CodeType, int]]:
    """A function's lines, but for its first and those that only open a block: there only a trace can raise."""
    source, first = inspect.getsourcelines(function)
    code = function.__code__
    lines = sorted({line for _, _, line in code.co_lines() if line is not None and line > first})
    return [(code, line) for line in lines if source[line - first].strip() != "try:"]


PLACES = [
    place
    for name in ("post", "flush", "_submit", "_note", "_drain", "_collect", "_deliver_all")
    for place in lines_of(getattr(awaiting.Inbox, name))
]


@pytest.mark.parametrize("base", [Exception, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore:unclosed inference response:ResourceWarning")  # of who was interrupted
def test_an_interrupt_at_any_line_costs_nobody_else_his_answer(server: tc.Server, base: type[BaseException]) -> None:
    interrupted = type("Interrupted", (base,), {})
    requests = [server.request("add_sub", pair(value, 100)) for value in range(12)]
    loop = asyncio.new_event_loop()
    unexpected: list[dict[str, Any]] = []

    def handle(_: object, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), interrupted):
            unexpected.append(context)

    async def one(request: tc.InferenceRequest) -> int:
        return sum_of(await request.infer_await())

    def run(place: tuple[CodeType, int] | None) -> tuple[bool, list[Any]]:
        """All at once, and an interrupt at the place: whether it came, and values or errors."""
        came = False

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal came
            if place is None or came or frame.f_code is not place[0]:
                return None
            if event == "line" and frame.f_lineno == place[1]:
                came = True
                raise interrupted
            return trace

        tasks = [loop.create_task(one(request)) for request in requests]
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with contextlib.suppress(interrupted):
                loop.run_until_complete(asyncio.wait(tasks, timeout=20))
        finally:
            sys.settrace(before)
        loop.run_until_complete(asyncio.wait(tasks, timeout=20))  # a KeyboardInterrupt ends the loop
        assert all(task.done() for task in tasks), f"somebody waits for ever: {place}"
        return came, [task.exception() or task.result() for task in tasks]

    loop.set_exception_handler(handle)
    expected = [value + 100 for value in range(12)]
    for _ in range(3):  # from now on they are queued
        assert run(None) == (False, expected)
    hits = 0
    for place in PLACES:
        came, found = run(place)
        hits += came
        wrong = [value for value, right in zip(found, expected, strict=True) if value != right]
        assert len(wrong) <= 1, place
        assert all(isinstance(value, interrupted) for value in wrong), (place, wrong)
        assert run(None) == (False, expected), f"all can be sent again: {place}"
    assert not unexpected
    assert hits > len(PLACES) / 2
    for request in requests:
        request.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
