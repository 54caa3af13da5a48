"""Many requests in one call, and the one native call behind infer()."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import model_repos
import tritoncapi as tc
from tritoncapi import InferTimeout, many
from tritoncapi._native import RUN_THREADS
from tritoncapi.errors import ClosedError, Error, InFlightError, InternalError, InvalidArgError, TritonError
from tritoncapi.waiting import wait_for

ONE = {"INPUT0": np.array([1], np.int32)}


def pair(left: int = 1, right: int = 2) -> dict[str, Any]:
    return {"INPUT0": np.array([left], np.int32), "INPUT1": np.array([right], np.int32)}


@pytest.fixture(autouse=True, params=["few cores", "many cores"])
def _cores(library: tc.Library, request: pytest.FixtureRequest) -> Iterator[None]:
    """With cores to spare, who waits for many looks for the answers itself, as long as they come quickly."""
    library.native.cores_set(1000 if request.param == "many cores" else 2)
    yield
    library.native.cores_set(0)


def pooled() -> tc.ResponseAllocator:
    return tc.ResponseAllocator(reuse=True, keep_records=False)


def sums(responses: tc.Responses) -> list[int]:
    return [int(response["OUTPUT0"].numpy()[0]) for response in responses]


def test_each_gets_its_own_answer(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    for _ in range(20):
        with server.infer_many(requests) as responses:
            assert not any(request.in_flight for request in requests)
            assert len(responses) == 64
            assert responses.failed == []
            assert sums(responses.raise_for_error()) == [value + 100 for value in range(64)]
    assert server.default_allocator.counts.live == 0


def test_responses_are_a_sequence(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    with server.infer_many(requests[:5]) as responses:
        assert responses[-1] is responses[4]
        assert [response.final for response in responses[1:3]] == [True, True]
        assert responses[0].time_ns > 0
        with pytest.raises(IndexError):
            responses[5]
        kept = responses[2]["OUTPUT0"].numpy()
        responses[3].close()
    assert kept[0] == 102
    with pytest.raises(Error, match="closed"):
        responses[0]
    responses.close()
    del kept
    assert server.default_allocator.counts.live == 0


def test_nothing_looked_at_leaves_nothing(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    server.infer_many(requests).close()
    assert server.default_allocator.counts.live == 0
    assert len(server.infer_many([])) == 0


def test_an_allocator_of_ones_own(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    with tc.ResponseAllocator() as allocator, tc.CallableAllocator(lambda *_: tc.CPU) as python:
        with server.infer_many(requests[:4], allocator=allocator) as responses:
            assert sums(responses) == [100, 101, 102, 103]
        assert allocator.counts.allocations == 8
        with server.infer_many(requests[:4], allocator=python) as responses:  # it needs the interpreter lock
            assert sums(responses) == [100, 101, 102, 103]


def test_errors_are_responses(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as good, server.request("fail_request", ONE) as bad:
        with server.infer_many([good, bad]) as responses:
            assert responses.failed == [1]
            assert responses[0].error is None
            with pytest.raises(InternalError, match="planted fault"):
                responses.raise_for_error()
        assert not good.in_flight


def test_one_that_triton_refuses(server: tc.Server, requests: list[tc.InferenceRequest], tools: Any) -> None:
    with server.request("add_sub", ONE) as wrong:
        with pytest.raises(InvalidArgError):
            server.infer_many([*requests[:3], wrong, *requests[3:6]])
        with pytest.raises(InvalidArgError):
            server.infer_many([wrong])
    assert not any(request.in_flight for request in requests)
    assert server.default_allocator.counts.live == 0
    with server.infer_many(requests[:6]) as responses:
        assert sums(responses) == list(range(100, 106))


def test_time_over(server: tc.Server, requests: list[tc.InferenceRequest], tools: Any) -> None:
    slow = server.request("slow", ONE)
    with pytest.raises(tc.InferTimeout, match="no answer within"):
        server.infer_many([requests[0], slow, requests[1]], timeout=0.05)
    assert slow.in_flight
    assert not requests[0].in_flight
    with pytest.raises(InFlightError):
        server.infer_many([requests[0], slow])
    assert not requests[0].in_flight
    slow.close()
    assert tools.wait_for(lambda: server.default_allocator.counts.live == 0)


def test_longer_than_one_slice(tmp_path: Path, make_server: Any, tools: Any) -> None:
    tools.add_model(tmp_path, "model", execute_delay_ms=150)
    server = make_server(tmp_path)
    server.load("model")
    with server.request("model", ONE) as one, server.request("model", ONE) as two:
        with server.infer_many([one, two]) as responses:
            assert [int(response["OUTPUT0"].numpy()[0]) for response in responses] == [1, 1]
        assert not one.in_flight
        with one.infer() as response:  # and one alone
            assert response["OUTPUT0"].numpy()[0] == 1


@pytest.fixture
def delayed(tmp_path: Path, make_server: Any, tools: Any) -> Any:
    """A server with ``model``, of which one request takes less than one native call waits, and two take longer."""
    tools.add_model(tmp_path, "model", execute_delay_ms=70)
    tools.add_model(tmp_path, "quick")
    server = make_server(tmp_path)
    server.load("model")
    server.load("quick")
    return server


def test_who_waits_for_long_sleeps(delayed: tc.Server) -> None:
    """Also with cores to spare: looking is for those that are quick."""
    with ExitStack() as stack:
        some = [stack.enter_context(delayed.request(name, ONE)) for name in ("quick", "model", "quick", "quick")]
        delayed.infer_many(some).close()
        began, used = time.monotonic(), time.thread_time()
        for _ in range(6):
            delayed.infer_many(some).close()
        assert time.monotonic() - began > 0.4
        assert time.thread_time() - used < 0.1


@pytest.mark.parametrize("which", ["whole", "goes on"])
def test_another_thread_uses_one_before_the_answers_are_taken(
    delayed: tc.Server, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    with ExitStack() as stack:
        quick, first, last = (stack.enter_context(delayed.request(name, ONE)) for name in ("quick", "model", "model"))
        for some in ([first, quick, last], [quick, first], [last]):  # all are ready then to be sent once more
            delayed.infer_many(some).close()
        other, step = (quick, "left_of") if which == "whole" else (last, "waited_for")
        original = getattr(many, step)

        def use() -> None:
            wait_for(lambda: not other.in_flight, 20)
            other.set_input("INPUT0", np.array([1000], np.int32))
            assert other.start().wait(20)

        def late(*arguments: Any) -> Any:
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            return original(*arguments)

        with monkeypatch.context() as patch:
            for module in ("server", "many"):
                patch.setattr(f"tritoncapi.{module}.{step}", late)
            with delayed.infer_many([first, quick, last]) as responses:
                values = [int(response["OUTPUT0"].numpy()[0]) for response in responses]
        assert values == [1, 1, 1]
    assert delayed.default_allocator.counts.live == 0


@pytest.mark.parametrize("use", [tc.InferenceRequest.infer, tc.InferenceRequest.start, tc.InferenceRequest.close])
def test_a_signals_handler_uses_one_that_goes_on(
    delayed: tc.Server, monkeypatch: pytest.MonkeyPatch, use: Callable[[tc.InferenceRequest], object]
) -> None:
    with ExitStack() as stack:
        quick, first, last = (stack.enter_context(delayed.request(name, ONE)) for name in ("quick", "model", "model"))
        for some in ([first, quick, last], [quick, first], [last]):  # all are ready then to be sent once more
            delayed.infer_many(some).close()
        original = many.left_of

        def interrupted(*arguments: Any) -> Any:
            assert last.in_flight
            with pytest.raises(InFlightError):
                use(last)
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr("tritoncapi.server.left_of", interrupted)
            with delayed.infer_many([first, quick, last]) as responses:
                values = [int(response["OUTPUT0"].numpy()[0]) for response in responses]
        assert values == [1, 1, 1]
        last.infer().close()


@pytest.mark.parametrize("overlap", [False, True])
def test_threads_share_requests_whose_time_runs_out(
    server: tc.Server, requests: list[tc.InferenceRequest], overlap: bool
) -> None:
    end = time.monotonic() + 1.0
    right = [0, 0, 0, 0]

    def send(number: int) -> None:
        some = requests[3 * number : 3 * number + 8] if overlap else requests[:8]
        expected = [requests.index(request) + 100 for request in some]
        while time.monotonic() < end:
            with suppress(InFlightError, InferTimeout), server.infer_many(some, timeout=0.0003) as responses:
                assert sums(responses) == expected
                right[number] += 1

    with ThreadPoolExecutor(4) as pool:
        for thread in [pool.submit(send, number) for number in range(4)]:
            thread.result()
    assert sum(right)
    wait_for(lambda: not any(request.in_flight for request in requests), 20)
    for request in requests:
        request.close()
    assert server.default_allocator.counts.live == 0


def test_a_model_that_does_not_send_one_response(server: tc.Server, tools: Any) -> None:
    repeat = {"IN": np.array([1, 2], np.int32), "DELAY": np.zeros(2, np.uint32)}
    with server.request("repeat", repeat) as several, server.request("add_sub", pair()) as good:
        with pytest.raises(Error, match="2 responses where one is due"):
            server.infer_many([good, several])
        with pytest.raises(Error, match="2 responses where one is due"):
            several.infer()
        assert not several.in_flight
    assert tools.wait_for(lambda: server.default_allocator.counts.live == 0)


def test_misuse(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    with pytest.raises(ValueError, match="only once at a time"):
        server.infer_many([requests[0], requests[0]])
    closed = server.request("add_sub", pair())
    closed.close()
    with pytest.raises(ClosedError):
        server.infer_many([requests[0], closed])
    with server.infer_many(requests[:1]) as responses:
        assert sums(responses) == [100]


def test_threads_with_requests_of_their_own(server: tc.Server) -> None:
    wrong: list[object] = []

    def work(base: int) -> None:
        with ExitStack() as stack:
            mine = [stack.enter_context(server.request("add_sub", pair(base, n))) for n in range(10)]
            for _ in range(50):
                with server.infer_many(mine) as responses:
                    found = sums(responses)
                with mine[0].infer() as response:
                    found.append(int(response["OUTPUT0"].numpy()[0]))
                if found != [*(base + n for n in range(10)), base]:
                    wrong.append(found)

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.usefixtures("interruptible")
def test_infer_in_one_call_is_interrupted_without_a_trace(server: tc.Server, tools: Any) -> None:
    gc.collect()
    request = server.request("slow", ONE)

    def interrupt() -> None:
        assert tools.wait_for(lambda: request.in_flight)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        request.infer()
    thread.join()
    assert request.in_flight
    request.close()
    assert tools.wait_for(lambda: server.default_allocator.counts.live == 0)


def test_another_thread_sees_a_request_in_flight(server: tc.Server, tools: Any) -> None:
    request = server.request("slow", ONE)
    raised: list[BaseException] = []

    def infer() -> None:
        try:
            request.infer()
        except Error as error:
            raised.append(error)

    thread = threading.Thread(target=infer)
    thread.start()
    assert tools.wait_for(lambda: request.in_flight)
    with pytest.raises(InFlightError):
        request.id = "other"
    with pytest.raises(InFlightError):
        server.infer_many([request])
    request.cancel()
    thread.join()
    assert len(raised) == 1
    request.close()


# The same requests again: native code takes them as they were left


def test_sent_again_by_other_ways_in_between(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    few = requests[:4]
    for _ in range(3):
        for _ in range(2):
            with server.infer_many(few) as responses:
                assert sums(responses) == [100, 101, 102, 103]
        with few[0].infer() as response:
            assert response["OUTPUT0"].numpy()[0] == 100
        execution = few[1].start()
        assert execution.wait(20)
        with server.infer_many(few) as responses, server.infer_many(few) as others:
            assert sums(responses) == sums(others) == [100, 101, 102, 103]
        few[2].set_input("INPUT0", np.array([50], np.int32))
        with server.infer_many(few[2:]) as responses:
            assert sums(responses) == [150, 103]
        few[2].set_input("INPUT0", np.array([2], np.int32))
    assert server.default_allocator.counts.live == 0


def test_one_of_them_closed(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    few = [server.request("add_sub", pair()) for _ in range(3)]
    server.infer_many(few).close()
    server.infer_many(few).close()
    few[1].close()
    with pytest.raises(ClosedError):
        server.infer_many(few)
    assert not few[0].in_flight
    with server.infer_many([few[0], few[2]]) as responses:
        assert sums(responses) == [3, 3]
        few[0].close()
        few[2].close()
        assert sums(responses) == [3, 3], "the responses are still ours"
    assert server.default_allocator.counts.live == 0


@pytest.fixture
def held(tmp_path: Path, make_server: Any, tools: Any) -> Iterator[tuple[tc.Server, list[tc.InferenceRequest]]]:
    """Two requests that native code takes, for a moment each time."""
    tools.add_model(tmp_path, "model", execute_delay_ms=40)
    server = make_server(tmp_path)
    server.load("model")
    requests = [server.request("model", ONE) for _ in range(2)]
    while not all(request._shared for request in requests):  # not the first time where the machine is busy
        server.infer_many(requests).close()
    yield server, requests
    for request in requests:
        request.close()


@contextmanager
def sent(server: tc.Server, requests: list[tc.InferenceRequest], tools: Any) -> Iterator[None]:
    """They are in flight, in a thread."""
    thread = threading.Thread(target=lambda: server.infer_many(requests, timeout=20).close())
    thread.start()
    assert tools.wait_for(lambda: requests[0].in_flight or not thread.is_alive())
    yield
    thread.join(20)
    assert not thread.is_alive()


def test_another_thread_has_them(held: tuple[tc.Server, list[tc.InferenceRequest]], tools: Any) -> None:
    server, requests = held
    with sent(server, requests, tools):
        for misuse in (lambda: requests[0].flags, lambda: server.infer_many(requests)):
            with pytest.raises(InFlightError):
                misuse()
    assert not any(request.in_flight for request in requests)
    with sent(server, requests, tools), requests[0].infer() as response:  # it waits for that
        assert response["OUTPUT0"].numpy()[0] == 1


def test_closed_while_native_code_has_it(held: tuple[tc.Server, list[tc.InferenceRequest]], tools: Any) -> None:
    server, requests = held
    with sent(server, requests, tools):
        requests[1].close()
    with pytest.raises(ClosedError):
        server.infer_many(requests)
    with sent(server, requests[:1], tools):
        server.close()
    assert requests[0].closed


def test_two_threads_with_the_same_requests(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    few = requests[:8]
    wrong: list[object] = []
    done = [0, 0]

    def work(index: int) -> None:
        while done[index] < 200:
            try:
                with server.infer_many(few) as responses:
                    if (found := sums(responses)) != list(range(100, 108)):
                        wrong.append(found)
                done[index] += 1
            except InFlightError:
                continue

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert server.default_allocator.counts.live == 0


def test_one_that_answers_twice_does_no_harm_to_the_others(server: tc.Server) -> None:
    with server.request("answer_twice", ONE) as twice, server.request("add_sub", pair()) as good:
        for _ in range(10):
            with pytest.raises(Error, match="2 responses where one is due"):
                server.infer_many([good, twice], timeout=20)
            with server.infer_many([good]) as responses:
                assert sums(responses) == [3]
    assert server.default_allocator.counts.live == 0


def test_more_threads_answer_than_a_request_remembers(tmp_path: Path, make_server: Any, tools: Any) -> None:
    count = RUN_THREADS + 4
    tools.add_model(
        tmp_path, "model", execute_delay_ms=2, instances=model_repos.instance_group("KIND_CPU", count=count)
    )
    server = make_server(tmp_path)
    server.load("model")
    with ExitStack() as stack:
        requests = [stack.enter_context(server.request("model", ONE)) for _ in range(count)]
        for _ in range(30):
            server.infer_many(requests).close()
        assert any(request._run.thread_count > RUN_THREADS for request in requests)
    server.unload("model")
    server.wait_unloaded(timeout=20)


def test_requests_of_another_server(make_server: Callable[..., tc.Server], repository: Path) -> None:
    one, two = (make_server(repository, startup_models=["add_sub"]) for _ in range(2))
    with ExitStack() as stack:
        requests = [stack.enter_context(two.request("add_sub", pair(value, 4))) for value in range(5)]
        for _ in range(3):
            with one.infer_many(requests) as responses:
                assert sums(responses) == [value + 4 for value in range(5)]
            assert one.default_allocator.counts.live == 0
            with pooled() as allocator, one.infer_many(requests, allocator=allocator) as responses:
                assert sums(responses) == [value + 4 for value in range(5)]
                del responses
    one.close()
    two.close()


def test_none_at_all(server: tc.Server) -> None:
    with tc.CallableAllocator(lambda *_: tc.CPU) as python, pooled() as allocator:
        for chosen in (None, python, allocator):
            with server.infer_many([], allocator=chosen) as responses:
                assert (len(responses), responses.failed) == (0, [])


def test_what_is_no_request(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request:
        for wrong in ([1], [request, None]):
            with pytest.raises(TypeError, match=r"infer_many\(\) takes InferenceRequests, not (int|NoneType)"):
                server.infer_many(wrong)  # type: ignore[arg-type]
        server.infer_many([request]).close()


def test_views_of_one_that_was_closed_keep_it(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as request, pooled() as allocator:
        response = request.infer(allocator=allocator)
        view = response["OUTPUT0"].numpy()
        response.close()
        for value in range(20):
            request.set_input("INPUT1", np.array([value + 50], np.int32))
            request.infer(allocator=allocator).close()
        assert view[0] == 3
        del view, response


def test_waiting_for_a_slow_model_takes_no_time_of_the_cpu(
    held: tuple[tc.Server, list[tc.InferenceRequest]],
) -> None:
    _, (request, _) = held
    request.infer().close()
    before = time.thread_time()
    for _ in range(5):
        request.infer().close()
    assert time.thread_time() - before < 0.05


def test_a_batch_that_was_sent_with_another_allocator_since(server: tc.Server) -> None:
    with server.request("add_sub", pair()) as one, server.request("add_sub", pair()) as two:
        server.infer_many([one, two]).close()
        with tc.ResponseAllocator() as allocator:
            server.infer_many([two, one], allocator=allocator).close()
            server.infer_many([one, two]).close()
            assert allocator.counts.allocations == 4
            server.infer_many([two, one], allocator=allocator).close()
            assert allocator.counts.allocations == 8
        for _ in range(20):
            server.infer_many([one, two]).close()
    assert server.default_allocator.counts.live == 0


@pytest.mark.parametrize("many", [False, True])
def test_a_view_outlives_response_and_request(server: tc.Server, many: bool) -> None:
    views = []
    for value in range(20):
        with server.request("add_sub", pair(value)) as request:
            if many:
                with server.infer_many([request]) as responses:
                    views.append(responses[0]["OUTPUT0"].numpy())
            else:
                with request.infer() as response:
                    views.append(response["OUTPUT0"].numpy())
        del request
    gc.collect()
    others = [bytearray(size) for size in range(60, 600, 4)]
    assert [int(view[0]) for view in views] == [value + 2 for value in range(20)]
    views.clear()
    gc.collect()
    assert not any(any(other) for other in others)
    assert server.default_allocator.counts.live == 0


def test_forgotten_responses_warn(server: tc.Server, requests: list[tc.InferenceRequest]) -> None:
    responses = server.infer_many(requests[:2])
    assert responses._sending is not None
    answers = responses._sending.answers
    with pytest.warns(ResourceWarning, match="unclosed responses of 2 requests"):
        del responses
        gc.collect()
    server.library.native.answers_delete(answers, 2)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, float("nan")])
def test_any_time(server: tc.Server, requests: list[tc.InferenceRequest], timeout: float) -> None:
    with server.infer_many(requests[:2], timeout=timeout) as responses:
        assert sums(responses) == [100, 101]


def test_changed_and_sent_at_the_same_time(server: tc.Server) -> None:
    stop = threading.Event()
    with server.request("add_sub", pair()) as request:

        def change() -> None:
            while not stop.is_set():
                with suppress(InFlightError):
                    request.set_input("INPUT0", np.array([1], np.int32))

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for _ in range(500):
                with suppress(InFlightError):
                    assert request.start().wait(20)
                with suppress(InFlightError):
                    server.infer_many([request]).close()
        finally:
            stop.set()
            thread.join()
        with request.infer() as response:
            assert response["OUTPUT0"].numpy()[0] == 3


INTERRUPTED = """
import os, random, signal, sys, threading
import numpy as np
import tritoncapi as tc
from tritoncapi.waiting import wait_for

class Strike(BaseException): pass

def strike(*_):
    raise Strike

repository, backends = sys.argv[1:]
server = tc.Server(tc.ServerOptions(model_repository=repository, backend_directory=backends,
    startup_models=["add_sub"], log_info=False, log_warn=False))
signal.signal(signal.SIGALRM, strike)
rng = random.Random(3)
struck = 0
for _ in range(300):
    requests = [server.request("add_sub", {"INPUT0": np.array([value], np.int32), "INPUT1": np.array([1], np.int32)})
                for value in range(16)]
    for _ in range(2):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(20e-6, 800e-6))
                server.infer_many(requests).close()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Strike:
            struck += 1
        assert wait_for(lambda: not any(request.in_flight for request in requests), 20)
    found = []

    def again():
        with server.infer_many(requests) as responses:
            found.extend(int(response["OUTPUT0"].numpy()[0]) for response in responses)

    other = threading.Thread(target=again, daemon=True)
    other.start()
    other.join(20)
    assert found == list(range(1, 17)), found
    for request in requests:
        request.close()
print(struck)
sys.stdout.flush()
os._exit(0)  # an interrupt may have lost a response, which keeps the model
"""


def test_an_interrupt_gives_all_requests_back(child: Any, repository: Path, backends: Path) -> None:
    """Wherever it comes, they can be sent again afterwards, from other threads too."""
    assert int(child(INTERRUPTED, repository, backends, PYTHONWARNINGS="ignore")) > 50


def test_what_comes_late_is_looked_at_too(tools: Any, tmp_path: Path, backends: Path) -> None:
    """Answers that take longer than the native call waits: an error among them is one, and only until the next time."""
    tools.add_model(tmp_path, "model", execute_delay_ms=300)
    with ExitStack() as stack:
        server = stack.enter_context(tc.Server(tmp_path, backend_directory=backends, log_info=False))
        server.load("model")
        request = stack.enter_context(server.request("model", ONE))
        cancel = threading.Timer(0.15, request.cancel)
        cancel.start()
        with server.infer_many([request]) as responses:
            assert responses.failed == [0]
            with pytest.raises(TritonError):
                responses.raise_for_error()
        cancel.join()
        for _ in range(2):
            with server.infer_many([request]) as responses:
                assert responses.failed == []
                assert responses.raise_for_error()[0].error is None


def test_a_released_request_is_not_sent(server: tc.Server) -> None:
    request = server.request("add_sub", pair())
    other = server.request("add_sub", pair())
    requests = [other, request]
    for _ in range(2):
        server.infer_many(requests).close()
    pointer = request.release()
    for _ in range(2):
        with pytest.raises(ClosedError):
            server.infer_many(requests)
    server.library.api.InferenceRequestDelete(pointer)
    other.close()


def test_its_type_hints_can_be_had(server: tc.Server) -> None:
    assert get_type_hints(tc.Server.infer_many)["return"] is tc.Responses
    assert tc.Server.infer_many.__qualname__ == "Server.infer_many"
