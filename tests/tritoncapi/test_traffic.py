"""Traffic: what is counted is what Triton counted, what is wrong is found, and it ends whatever the model does."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi import _native
from tritoncapi.errors import ClosedError, Error, NotFoundError

ONE = {"INPUT0": np.array([1], np.int32)}
CODE = tc.ErrorCode
MakeServer = Callable[..., tc.Server]


def pair(left: int = 1, right: int = 2) -> dict[str, Any]:
    return {"INPUT0": np.array([left], np.int32), "INPUT1": np.array([right], np.int32)}


ADD_SUB = tc.Target("add_sub", pair())


def executed(server: tc.Server, model: str) -> tuple[int, int]:
    """Requests that succeeded and failed, as Triton counts them."""
    [row] = server.model_statistics(model)
    return row["inference_stats"]["success"]["count"], row["inference_stats"]["fail"]["count"]


def check_sum(response: tc.InferenceResponse, sample: tc.Sample) -> None:
    expected = sample.inputs["INPUT0"] + sample.inputs["INPUT1"]
    np.testing.assert_array_equal(response["OUTPUT0"].numpy(), expected)


# What is counted


@pytest.mark.parametrize(("concurrency", "threads"), [(1, 1), (8, 1), (7, 3)])
def test_totals_are_requests_are_tritons_statistics(
    server: tc.Server, tools: Any, concurrency: int, threads: int
) -> None:
    succeeded, failed = executed(server, "add_sub")
    traffic = tc.Traffic(
        server, ADD_SUB, concurrency=concurrency, threads=threads, requests=500, warmup_requests=50, check=check_sum
    )
    report = traffic.run()
    counts = report.counts
    assert (report.ending, report.ended) == (tc.Ending.REQUESTS, True)
    assert (counts.completed, counts.responses, counts.warmup, counts.submitted) == (500, 500, 50, 550)
    assert (counts.errors, counts.refused, counts.lost, counts.unsent, counts.codes) == (0, 0, 0, 0, {})
    assert (report.validated, report.wrong) == (counts.samples, 0)
    assert report.validated + counts.skipped >= 500 // 100
    assert report.latency.count == report.total.naive.count == report.total.release.count == 500
    assert sum(interval.completed for interval in report.intervals) == 500
    assert report.throughput == report.goodput == pytest.approx(500 / report.elapsed)
    assert tools.wait_for(lambda: executed(server, "add_sub") == (succeeded + 550, failed))


def test_a_time_instead_of_a_number(server: tc.Server, tools: Any) -> None:
    before = sum(executed(server, "add_sub"))
    report = tc.Traffic(server, ADD_SUB, concurrency=4, duration=0.1, warmup=0.05).run()
    counts = report.counts
    assert report.ending == tc.Ending.DURATION
    assert counts.warmup
    assert counts.completed
    assert counts.submitted == counts.completed + counts.warmup
    assert tools.wait_for(lambda: sum(executed(server, "add_sub")) == before + counts.submitted)


def test_percentiles_are_in_order(server: tc.Server) -> None:
    report = tc.Traffic(server, ADD_SUB, concurrency=2, requests=1000).run()
    values = list(report.total.percentiles().values())
    assert len(values) == 6
    assert 0 < report.latency.smallest <= values[0]
    assert values == sorted(values)
    assert values[-1] <= report.latency.largest
    assert report.latency.largest in {interval.largest_ns for interval in report.intervals}


def test_errors_are_counted_by_code(server: tc.Server, tools: Any) -> None:
    targets = [ADD_SUB, tc.Target("fail_request", ONE, weight=2)]
    before = executed(server, "fail_request")
    report = tc.Traffic(server, targets, concurrency=3, requests=300).run()
    good, bad = (target.counts for target in report.targets)
    assert good.completed + bad.completed == report.counts.completed == 300
    assert good.errors == 0 < good.completed < bad.completed
    assert bad.codes == report.counts.codes == {CODE.INTERNAL: bad.completed}
    assert report.messages == {CODE.INTERNAL: "planted fault: fail_request"}
    assert report.latency.count == good.completed
    assert report.goodput < report.throughput
    assert sum(interval.errors for interval in report.intervals) == bad.errors
    assert tools.wait_for(lambda: executed(server, "fail_request") == (before[0], before[1] + bad.completed))


def test_what_triton_refuses_at_once(server: tc.Server) -> None:
    target = tc.Target("accumulate", {"INPUT": np.array([1], np.int32)})  # a sequence model, without a sequence
    report = tc.Traffic(server, target, concurrency=2, requests=50, warmup_requests=5).run()
    counts = report.counts
    assert (counts.completed, counts.errors, counts.refused, counts.submitted) == (50, 50, 50, 0)
    assert counts.warmup_refused == 5
    assert counts.codes == {CODE.INVALID_ARG: 50}
    assert "correlation ID" in report.messages[CODE.INVALID_ARG]
    assert tc.Traffic(server, target, duration=0.01).run().ending == tc.Ending.DURATION


def test_too_many_errors_end_it(server: tc.Server) -> None:
    targets = [ADD_SUB, tc.Target("fail_request", ONE)]
    report = tc.Traffic(server, targets, concurrency=4, max_error_rate=0.25).run()
    assert report.ending == tc.Ending.ERRORS
    assert report.counts.errors / report.counts.completed > 0.1
    few = tc.Traffic(server, targets, requests=200, max_error_rate=0.9, least_for_errors=1, seed=1)
    assert few.run().ending in (tc.Ending.REQUESTS, tc.Ending.ERRORS)
    assert tc.Traffic(server, ADD_SUB, requests=200, max_error_rate=0.0).run().ending == tc.Ending.REQUESTS


def test_weights_divide_the_traffic(server: tc.Server) -> None:
    targets = [tc.Target("add_sub", pair(), weight=3), tc.Target("identity_INT32", ONE)]
    first, second = tc.Traffic(server, targets, concurrency=4, requests=2000, seed=7).run().targets
    assert (first.model, second.model) == ("add_sub", "identity_INT32")
    assert first.counts.completed + second.counts.completed == 2000
    assert 1350 < first.counts.completed < 1650


def test_settings_of_the_requests(server: tc.Server) -> None:
    target = tc.Target("queued_slow", {"INPUT0": np.array([[1]], np.int32)}, settings={"timeout_us": 1000})
    with tc.Traffic(server, target, concurrency=2, requests=2) as traffic:
        traffic.start()  # one may be executed, for long; when the other one's time in the queue is over, Triton decides
        traffic.wait(0.5)
    assert traffic.report.counts.completed == traffic.report.counts.errors == 2
    assert set(traffic.report.counts.codes) <= {CODE.CANCELLED, CODE.UNAVAILABLE}


def test_a_setting_that_is_none(server: tc.Server) -> None:
    with pytest.raises(TypeError, match="no setting 'colour'"):
        tc.Traffic(server, tc.Target("add_sub", ONE, settings={"colour": 1}))


def test_a_decoupled_model(server: tc.Server) -> None:
    inputs = {"IN": np.array([1, 2, 3], np.int32), "DELAY": np.zeros(3, np.uint32)}
    report = tc.Traffic(server, tc.Target("repeat", inputs), concurrency=2, requests=40).run()
    assert (report.counts.completed, report.counts.responses, report.counts.errors) == (40, 120, 0)
    assert report.total.first.count == 40
    assert report.total.first is not report.latency
    silent = {"IN": np.array([], np.int32), "DELAY": np.array([], np.uint32)}
    report = tc.Traffic(server, tc.Target("repeat", silent), requests=5).run()
    assert (report.counts.completed, report.counts.responses) == (5, 0)


def test_an_allocator_of_ones_own(server: tc.Server) -> None:
    with tc.ResponseAllocator(tc.CPU, keep_records=False) as allocator:
        target = tc.Target("add_sub", pair(), outputs=["OUTPUT1"], allocator=allocator)
        tc.Traffic(server, target, concurrency=2, requests=20, check=lambda r, _: None, check_every=1).run()
        assert (allocator.counts.allocations, allocator.counts.live) == (20, 0)
    failing = tc.ResponseAllocator(tc.errors.UnavailableError("no room"))
    with failing:
        report = tc.Traffic(server, tc.Target("add_sub", pair(), allocator=failing), requests=10).run()
        assert report.counts.errors == 10


# Checks


@pytest.mark.parametrize("fault", ["", "wrong_values"])
def test_a_planted_wrong_value_is_found(tmp_path: Path, make_server: MakeServer, tools: Any, fault: str) -> None:
    tools.add_model(tmp_path, "model", "add_sub", tools.pair, tools.pair_out, fault=fault)
    server = make_server(tmp_path)
    server.load("model")
    sets = [pair(value, 10 * value) for value in range(1, 5)]
    report = tc.Traffic(
        server, tc.Target("model", sets), concurrency=8, threads=2, requests=400, check=check_sum, check_every=7
    ).run()
    assert report.counts.errors == 0
    assert report.validated == report.counts.samples > 0
    assert report.validated + report.counts.skipped >= 2 * (400 // 2 // 7)
    assert report.wrong == (report.validated if fault else 0)
    assert len(report.wrong_texts) == min(10, report.wrong)
    assert all("model: AssertionError" in text for text in report.wrong_texts)


def test_checks_see_their_own_inputs(server: tc.Server) -> None:
    seen = set()

    def check(response: tc.InferenceResponse, sample: tc.Sample) -> None:
        check_sum(response, sample)
        assert sample.intended_ns <= sample.submit_ns < sample.final_ns
        seen.add(int(response["OUTPUT0"].numpy()[0]))

    sets = [pair(value, 100) for value in range(4)]
    report = tc.Traffic(
        server, tc.Target("add_sub", sets), concurrency=4, requests=50, check=check, check_every=1
    ).run()
    assert report.wrong_texts == ()
    assert seen == {100, 101, 102, 103}


def test_checks_never_hold_the_traffic_up(server: tc.Server) -> None:
    with tc.Traffic(server, ADD_SUB, requests=200, check=check_sum, check_every=1) as traffic:
        traffic.start()
        state = (ctypes.c_int64 * 3)()
        native = server.library.native
        while native.traffic_running(traffic._state):  # nobody takes the samples
            native.traffic_state(traffic._state, state)
        assert traffic.wait(20)
    report = traffic.report
    assert (report.counts.completed, report.validated, report.counts.skipped) == (200, 64, 136)


def test_samples_that_nobody_took_are_checked_at_the_end(server: tc.Server, tools: Any) -> None:
    with tc.Traffic(server, ADD_SUB, requests=5, check=check_sum, check_every=1) as traffic:
        traffic.start()
        assert tools.wait_for(lambda: traffic.report.counts.samples > 0)
    assert traffic.report.validated == traffic.report.counts.samples > 0


# The open loop


def slow_model(tmp_path: Path, make_server: MakeServer, tools: Any, delay_ms: int) -> tc.Server:
    tools.add_model(tmp_path, "slow", execute_delay_ms=delay_ms)
    server = make_server(tmp_path)
    server.load("slow")
    return server


def test_a_slow_model_cannot_hide_behind_held_up_requests(tmp_path: Path, make_server: MakeServer, tools: Any) -> None:
    server = slow_model(tmp_path, make_server, tools, delay_ms=10)
    samples: list[tc.Sample] = []
    report = tc.Traffic(
        *(server, tc.Target("slow", ONE)),
        rate=500.0,
        requests=20,
        check=lambda _, sample: samples.append(sample),
        check_every=1,
    ).run()
    assert report.counts.completed == len(samples) == 20
    for number, sample in enumerate(samples):
        assert sample.intended_ns - samples[0].intended_ns == pytest.approx(number * 2_000_000, abs=1)
        # One at a time, 10 ms each, due every 2 ms: the k-th waits 8k ms at least before it is even sent.
        assert sample.submit_ns - sample.intended_ns >= number * 8_000_000
    assert report.total.naive.count == report.latency.count == report.total.late.count == 20
    assert report.total.late.smallest == min(sample.submit_ns - sample.intended_ns for sample in samples)
    assert report.total.late.share_above(1_000_000) >= 19 / 20
    assert report.latency.mean - report.total.naive.mean >= 19 / 2 * 8_000_000
    assert report.latency.largest >= 19 * 8_000_000 + 10_000_000


def test_what_was_due_and_never_sent_is_counted(tmp_path: Path, make_server: MakeServer, tools: Any) -> None:
    server = slow_model(tmp_path, make_server, tools, delay_ms=20)
    report = tc.Traffic(server, tc.Target("slow", ONE), rate=1000.0, duration=0.1).run()
    assert report.ending == tc.Ending.DURATION
    assert report.counts.unsent > 0
    assert report.counts.completed + report.counts.unsent == 100


@pytest.mark.parametrize("threads", [1, 3])
def test_a_constant_rate_sends_what_is_due(server: tc.Server, threads: int) -> None:
    report = tc.Traffic(server, ADD_SUB, rate=2000.0, duration=0.1, concurrency=30, threads=threads).run()
    assert report.counts.completed + report.counts.unsent == pytest.approx(200, abs=threads)
    assert report.counts.errors == report.counts.lost == 0
    assert report.latency.largest >= report.total.naive.smallest


def gaps(server: tc.Server, seed: int) -> list[int]:
    found: list[int] = []
    tc.Traffic(
        *(server, ADD_SUB),
        rate=5000.0,
        poisson=True,
        seed=seed,
        requests=60,
        check=lambda _, sample: found.append(sample.intended_ns),
        check_every=1,
    ).run()
    assert len(found) == 60
    return [later - earlier for earlier, later in itertools.pairwise(found)]


def test_poisson_arrivals_can_be_repeated(server: tc.Server) -> None:
    first = gaps(server, 3)
    assert first == pytest.approx(gaps(server, 3), abs=2)
    assert first != pytest.approx(gaps(server, 4), abs=2)
    assert 100_000 < sum(first) / len(first) < 400_000
    assert max(first) > 3 * sorted(first)[len(first) // 2] / 2


# Sequences and cancellation


def test_sequences(server: tc.Server) -> None:
    places = []

    def check(response: tc.InferenceResponse, sample: tc.Sample) -> None:
        assert int(response["OUTPUT"].numpy()[0]) == sample.step + 1  # the model adds up what it is given
        places.append((sample.correlation_id, sample.step, sample.last))

    target = tc.Target("accumulate", {"INPUT": np.array([1], np.int32)}, sequence_length=4)
    report = tc.Traffic(server, target, concurrency=3, requests=30, check=check, check_every=1).run()
    assert report.wrong_texts == ()
    assert report.counts.errors == 0
    assert 30 <= report.counts.completed <= 33
    assert report.counts.submitted == report.counts.completed
    by_sequence: dict[int, list[tuple[int, bool]]] = {}
    for correlation, step, last in places:
        by_sequence.setdefault(correlation, []).append((step, last))
    assert len(by_sequence) == report.counts.sequences
    for steps in by_sequence.values():  # each from its start, in order, to its end
        assert [step for step, _ in steps] == list(range(len(steps)))
        assert [last for _, last in steps] == [False] * (len(steps) - 1) + [True]


def test_cancelled_requests(server: tc.Server) -> None:
    report = tc.Traffic(server, tc.Target("slow", ONE, cancel_rate=1.0), concurrency=4, requests=40).run()
    assert report.counts.cancels == 40
    assert report.counts.codes == {CODE.CANCELLED: 40}


def test_a_cancelled_request_can_be_sent_again(server: tc.Server) -> None:
    report = tc.Traffic(server, tc.Target("add_sub", pair(), cancel_rate=0.5), concurrency=2, requests=2000).run()
    assert report.counts.completed == 2000
    assert 800 < report.counts.cancels < 1200
    assert set(report.counts.codes) <= {CODE.CANCELLED}
    assert report.counts.errors <= report.counts.cancels  # none is cancelled for an earlier one's sake
    assert report.latency.count == 2000 - report.counts.errors


# The end


def test_stopped_from_another_thread(server: tc.Server, tools: Any) -> None:
    traffic = tc.Traffic(server, ADD_SUB, concurrency=4)

    def stop() -> None:
        assert tools.wait_for(lambda: traffic.report.counts.completed > 20)
        traffic.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    report = traffic.run()
    stopper.join()
    assert report.ending == tc.Ending.STOPPED
    assert report.counts.submitted == report.counts.completed > 20
    assert traffic.report is report


@pytest.mark.usefixtures("interruptible")
def test_interrupted(server: tc.Server, tools: Any) -> None:
    traffic = tc.Traffic(server, ADD_SUB, concurrency=2)

    def interrupt() -> None:
        assert tools.wait_for(lambda: traffic.report.counts.completed > 0)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        traffic.run()
    interrupter.join()
    assert traffic.report.ending == tc.Ending.STOPPED
    assert traffic.report.counts.lost == 0


def test_closing_cancels_what_is_out(server: tc.Server, tools: Any) -> None:
    with tc.Traffic(server, tc.Target("slow", ONE), concurrency=4, threads=2) as traffic:
        traffic.start()
        assert traffic.running
        assert tools.wait_for(lambda: traffic.report.counts.submitted == 4)
        assert not traffic.wait(0)
    assert traffic.report.counts.codes == {CODE.CANCELLED: 4}
    assert traffic.report.counts.lost == 0
    assert not traffic.running


def test_closing_the_server_ends_its_traffic(tmp_path: Path, make_server: MakeServer, tools: Any) -> None:
    for name, delay in (("fast", 0), ("slow", 100_000)):
        tools.add_model(tmp_path, name, execute_delay_ms=delay)
    server = make_server(tmp_path)
    traffics = []
    for name in ("fast", "slow"):
        server.load(name)
        traffics.append(tc.Traffic(server, tc.Target(name, ONE), concurrency=3))
        traffics[-1].start()
    assert tools.wait_for(lambda: all(traffic.report.counts.submitted >= 3 for traffic in traffics))
    unused = tc.Traffic(server, tc.Target("fast", ONE))
    server.close()
    assert [traffic.report.ending for traffic in traffics] == [tc.Ending.STOPPED] * 2
    assert [traffic.report.counts.lost for traffic in traffics] == [0, 0]
    with pytest.raises(ClosedError):
        unused.run()


def test_a_model_that_never_answers(server: tc.Server) -> None:
    report = tc.Traffic(server, tc.Target("no_answer", ONE), concurrency=3, patience=0.1).run()
    assert report.ending == tc.Ending.STALLED
    assert (report.counts.submitted, report.counts.completed, report.counts.lost) == (3, 0, 3)


def test_a_model_that_answers_twice(server: tc.Server) -> None:
    native = server.library.native
    before = native.slot_strays()
    report = tc.Traffic(server, tc.Target("answer_twice", ONE), concurrency=2, requests=50).run()
    assert (report.counts.completed, report.counts.responses) == (50, 50)
    assert native.slot_strays() - before == 50


def test_unloading_under_traffic(tmp_path: Path, make_server: MakeServer, tools: Any) -> None:
    tools.add_model(tmp_path, "model")
    server = make_server(tmp_path)
    server.load("model")
    with tc.Traffic(server, tc.Target("model", ONE), max_error_rate=0.1) as traffic:
        traffic.start()
        assert tools.wait_for(lambda: traffic.report.counts.completed > 100)
        traffic.stop()
        assert traffic.wait(20)
        server.unload("model")
    assert traffic.report.counts.errors == 0
    assert server.wait_unloaded(["model"])


def test_it_never_takes_the_interpreter_lock(server: tc.Server) -> None:
    wait = ctypes.PyDLL(str(_native._path())).tc_traffic_wait
    wait.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(_native.Sample)]
    with tc.Traffic(server, ADD_SUB, concurrency=4, threads=2, requests=500) as traffic:
        traffic.start()
        # With the lock held all the time: nobody who needs it could end the run.
        assert wait(traffic._state, int(60e9), ctypes.byref(_native.Sample())) == 2
        assert traffic.report.counts.completed == 500


def test_requests_do_not_leak(server: tc.Server) -> None:
    before = len(server._requests.all())
    for _ in range(20):
        tc.Traffic(server, ADD_SUB, concurrency=16, threads=2, requests=100).run()
    with pytest.raises(NotFoundError):
        tc.Traffic(server, [ADD_SUB, tc.Target("nobody", ONE)])
    assert len(server._requests.all()) == before
    assert not server._traffics


def test_misuse(server: tc.Server) -> None:
    traffic = tc.Traffic(server, ADD_SUB, requests=1)
    assert not traffic.running
    traffic.run()
    with pytest.raises(ClosedError):
        traffic.run()
    with pytest.raises(Error, match="used already"):
        traffic.start()
    traffic.close()
    traffic.stop()
    never = tc.Traffic(server, ADD_SUB)
    assert not never.wait(0)
    never.close()
    for settings in (
        {"concurrency": 0},
        {"concurrency": 1, "threads": 2},
        {"rate": 0.0},
        {"poisson": True},
        {"requests": 0},
        {"check_every": 0},
        {"patience": 0.0},
        {"rate": float("inf")},
        {"requests": -1},
        {"duration": -1.0},
        {"patience": float("nan")},
        {"max_error_rate": 1.5},
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - each says something else
            tc.Traffic(server, ADD_SUB, **settings)
    for fields in ({"weight": 0.0}, {"cancel_rate": 1.1}, {"sequence_length": -1}, {"inputs": []}):
        with pytest.raises(ValueError):  # noqa: PT011
            tc.Target(**{"model": "add_sub", "inputs": pair(), **fields})
    forgotten = tc.Traffic(server, ADD_SUB)
    with pytest.warns(ResourceWarning, match="unclosed traffic"):
        forgotten.__del__()
    forgotten.close()


def test_closed_by_two_threads_at_once(repository: Path, backends: Path) -> None:
    for _ in range(5):
        with tc.Server(repository, backend_directory=backends, log_info=False) as server:
            server.load("add_sub")
            traffic = tc.Traffic(server, ADD_SUB, concurrency=2, duration=5)
            closer = threading.Timer(0.05, server.close)
            closer.start()
            report = traffic.run()
            closer.join()
        assert report.ended


def test_more_in_flight_than_there_can_be(server: tc.Server) -> None:
    with pytest.raises(ValueError, match="at most 1048576 requests in flight"):
        tc.Traffic(server, ADD_SUB, concurrency=1 << 21)
