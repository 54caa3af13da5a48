"""Response allocators: rules, records, errors; every buffer comes back once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi import memory
from tritoncapi.errors import ClosedError, Error, InternalError, InvalidArgError, NotFoundError, UnavailableError


def pair(count: int = 4) -> dict[str, Any]:
    values = np.arange(count, dtype=np.int32)
    return {"INPUT0": values, "INPUT1": values}


def infer(server: tc.Server, allocator: Any, count: int = 4, **settings: Any) -> list[int]:
    with server.infer("add_sub", pair(count), allocator=allocator, timeout=20, **settings) as response:
        values: list[int] = response["OUTPUT0"].numpy().tolist()
        return values


@pytest.mark.parametrize("rule", [tc.CPU, "preferred"])
def test_placed_by_rule(server: tc.Server, rule: Any) -> None:
    with tc.ResponseAllocator(rule) as allocator:
        assert infer(server, allocator) == [0, 2, 4, 6]
        counts = allocator.counts
        assert (counts.starts, counts.allocations, counts.releases, counts.live) == (1, 2, 2, 0)
        assert (counts.attributes, counts.live_bytes, counts.peak_bytes) == (2, 0, 32)
        assert (counts.failures, counts.double_releases, counts.mismatched, counts.free_failures) == (0, 0, 0, 0)
        records = allocator.records
        assert [record.tensor for record in records] == ["OUTPUT0", "OUTPUT1"]
        for record in records:
            assert (record.nbytes, record.preferred, record.actual, record.releases) == (16, tc.CPU, tc.CPU, 1)
            assert 0 < record.allocated_ns <= record.released_ns
            assert record.address % 64 == 0
            assert not record.mismatched


def test_records_are_cleared(server: tc.Server) -> None:
    with tc.ResponseAllocator() as allocator:
        held = server.infer("add_sub", pair(), allocator=allocator, timeout=20)
        infer(server, allocator)
        assert len(allocator.records) == 4
        allocator.clear()
        assert [record.releases for record in allocator.records] == [0, 0], "only what came back is forgotten"
        held.close()
        allocator.clear()
        assert allocator.records == []
        assert allocator.counts.allocations == 4


def test_without_records(server: tc.Server) -> None:
    with tc.ResponseAllocator(keep_records=False) as allocator:
        with server.infer("add_sub", pair(), allocator=allocator, timeout=20):
            assert [record.tensor for record in allocator.records] == ["OUTPUT0", "OUTPUT1"]
        assert allocator.records == []
        assert allocator.counts.releases == 2


@pytest.mark.parametrize("keep", [True, False])
def test_empty_outputs(server: tc.Server, keep: bool) -> None:
    with tc.ResponseAllocator(keep_records=keep) as allocator:
        assert infer(server, allocator, count=0) == []
        counts = allocator.counts
        assert (counts.allocations, counts.zero_sized, counts.releases, counts.live) == (2, 2, 0, 0)
        records = [(r.tensor, r.nbytes, r.address, r.releases, r.released_ns > 0) for r in allocator.records]
        assert records == [(f"OUTPUT{index}", 0, 0, 0, True) for index in range(2 * keep)]
        allocator.clear()
        assert allocator.records == []


@pytest.mark.parametrize("error", [NotFoundError("none left"), UnavailableError("later"), InternalError("ü" * 50)])
def test_a_rule_that_fails_keeps_its_code(server: tc.Server, error: Any) -> None:
    with tc.ResponseAllocator(tensors={"OUTPUT1": error}) as allocator:
        for _ in range(2):
            with pytest.raises(type(error), match=f"response allocator: output 'OUTPUT1': {error.message}"):
                infer(server, allocator)
        counts = allocator.counts
        assert (counts.failures, counts.allocations, counts.releases, counts.live) == (2, 2, 2, 0)
        assert infer(server, allocator, outputs=["OUTPUT0"]) == [0, 2, 4, 6]


def test_a_rule_for_one_tensor(server: tc.Server) -> None:
    with tc.ResponseAllocator(InternalError("no others"), {"OUTPUT0": tc.CPU}) as allocator:
        assert infer(server, allocator, outputs=["OUTPUT0"]) == [0, 2, 4, 6]
        with pytest.raises(InternalError, match="no others"):
            infer(server, allocator)


@pytest.mark.skipif(bool(tc.memory.cuda.device_count()), reason="this machine has a GPU")
@pytest.mark.parametrize("place", [tc.PINNED, tc.gpu(0)])
def test_a_place_that_this_machine_lacks(server: tc.Server, place: tc.Place) -> None:
    with tc.ResponseAllocator(place) as allocator:
        with pytest.raises(UnavailableError, match="response allocator: output 'OUTPUT0'"):
            infer(server, allocator)
        assert (allocator.counts.live, allocator.counts.failures > 0) == (0, True)


def test_what_is_no_rule(library: tc.Library) -> None:
    for wrong in ("anywhere", None, 3):
        with pytest.raises(TypeError, match="a rule is a Place, 'preferred' or a TritonError"):
            tc.ResponseAllocator(wrong)  # type: ignore[arg-type]


def test_closing_while_buffers_are_out(server: tc.Server) -> None:
    for allocator in (tc.ResponseAllocator(), tc.CallableAllocator(lambda _name, _size, place: place)):
        response = server.infer("add_sub", pair(), allocator=allocator, timeout=20)
        with pytest.raises(Error, match=r"still has 2 buffer\(s\) out"):
            allocator.close()
        view = response["OUTPUT0"].numpy()
        response.close()
        with pytest.raises(Error, match=r"2 buffer\(s\) out"):
            allocator.close()
        assert view.tolist() == [0, 2, 4, 6]
        del view
        allocator.close()
        assert allocator.closed


def test_after_close(server: tc.Server) -> None:
    allocator = tc.ResponseAllocator()
    allocator.close()
    assert (allocator.counts, allocator.records) == (tc.AllocatorCounts(), [])
    allocator.clear()
    with pytest.raises(ClosedError):
        infer(server, allocator)


def test_one_allocator_for_eight_threads(server: tc.Server) -> None:
    barrier = threading.Barrier(9)
    with tc.ResponseAllocator(keep_records=False) as allocator:

        def work() -> None:
            barrier.wait(20)
            for _ in range(50):
                assert infer(server, allocator) == [0, 2, 4, 6]

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        barrier.wait(20)
        while any(thread.is_alive() for thread in threads):  # reading while buffers come and go
            assert {record.tensor for record in allocator.records} <= {"OUTPUT0", "OUTPUT1"}
        counts = allocator.counts
        assert (counts.allocations, counts.releases, counts.live) == (800, 800, 0)


def test_buffers_are_used_again(server: tc.Server) -> None:
    with tc.ResponseAllocator(reuse=True) as allocator:
        allocator.reserve(tc.CPU, 16, 2)
        for _ in range(3):
            assert infer(server, allocator) == [0, 2, 4, 6]
        counts, addresses = allocator.counts, {record.address for record in allocator.records}
        assert (counts.allocations, counts.releases, counts.reused, counts.live) == (6, 6, 6, 0)
        assert len(addresses) == 2
    with tc.ResponseAllocator() as allocator:
        infer(server, allocator)
        assert allocator.counts.reused == 0
        with pytest.raises(ValueError, match="reuse=True"):
            allocator.reserve(tc.CPU, 16)


def test_a_buffer_used_again_has_the_right_size(server: tc.Server) -> None:
    with tc.ResponseAllocator(reuse=True, keep_records=False) as allocator:
        for count in (4, 8, 4):
            data = np.arange(count, dtype=np.int32)
            with server.infer("add_sub", {"INPUT0": data, "INPUT1": data}, allocator=allocator) as response:
                assert response["OUTPUT0"].numpy().tolist() == (2 * data).tolist()
        assert allocator.counts.reused == 2


def test_what_cannot_be_reserved(server: tc.Server) -> None:
    with tc.ResponseAllocator(reuse=True) as allocator, pytest.raises(MemoryError, match="buffers of"):
        allocator.reserve(tc.gpu(63), 1 << 20)


def test_native_callbacks_one_by_one(library: tc.Library) -> None:
    """What Triton itself does not do: a question before the allocation, a release twice, and a false one."""
    import ctypes

    native, api = library.native, library.api
    with tc.ResponseAllocator(tc.PINNED, {"COPY": tc.CPU, "FAIL": InternalError("x")}) as allocator:
        pointer, userp = allocator.pointer, allocator.userp
        for tensor, place in ((b"other", tc.PINNED), (b"COPY", tc.CPU), (None, tc.PINNED), (b"FAIL", tc.gpu(7))):
            size, kind, device = ctypes.c_size_t(4), ctypes.c_int(tc.MemoryType.GPU), ctypes.c_int64(7)
            assert not native.query_fn(pointer, userp, tensor, size, kind, device)
            assert tc.Place(tc.MemoryType(kind.value), device.value) == place
        assert allocator.counts.queries == 4

        buffer, key = ctypes.c_void_p(), ctypes.c_void_p()
        arguments = (pointer, b"COPY", 8, 0, 0, userp, buffer, key, kind, device)
        assert not native.alloc_fn(*arguments)
        assert buffer.value
        assert not native.release_fn(pointer, buffer, key, 8, 0, 0)
        error = native.release_fn(pointer, buffer, key, 9, 0, 0)
        assert "released twice" in str(api.take_error(ctypes.cast(error, type(api.ErrorNew(0, b"")))))
        counts = allocator.counts
        assert (counts.releases, counts.double_releases, counts.mismatched) == (1, 1, 1)
        assert not native.release_fn(pointer, None, None, 0, 0, 0), "an empty output"
        error = native.release_fn(pointer, 1, None, 0, 0, 0)
        assert "without an allocation" in str(api.take_error(ctypes.cast(error, type(api.ErrorNew(0, b"")))))


# Asked in Python


def test_a_function_decides(server: tc.Server) -> None:
    asked: list[Any] = []
    starts: list[int] = []
    attributes: list[str] = []

    def allocate(tensor: str, nbytes: int, preferred: tc.Place) -> tc.Place:
        asked.append((tensor, nbytes, preferred))
        return preferred

    before = memory.live_count()
    with tc.CallableAllocator(
        allocate, on_start=lambda: starts.append(1), on_attributes=attributes.append
    ) as allocator:
        with server.infer("add_sub", pair(), allocator=allocator, timeout=20) as response:
            assert allocator.live == 2
            assert response["OUTPUT1"].numpy().tolist() == [0, 0, 0, 0]
        assert allocator.live == 0
        assert asked == [("OUTPUT0", 16, tc.CPU), ("OUTPUT1", 16, tc.CPU)]
        assert (starts, attributes) == ([1], ["OUTPUT0", "OUTPUT1"])
        assert [(r.releases, r.mismatched, r.released_ns >= r.allocated_ns) for r in allocator.records] == [
            (1, 0, True)
        ] * 2
        assert allocator.errors == []
    assert memory.live_count() == before


def test_a_function_gives_a_buffer_of_its_own(server: tc.Server) -> None:
    with tc.Buffer.zeros(64) as mine, tc.CallableAllocator(lambda *_: mine) as allocator:
        with server.infer("add_sub", pair(), outputs=["OUTPUT0"], allocator=allocator, timeout=20) as response:
            assert response["OUTPUT0"].address == mine.address
            assert mine.numpy(np.int32)[:4].tolist() == [0, 2, 4, 6]
        assert not mine.closed
        assert allocator.records[0].releases == 1


def test_a_function_is_asked_for_empty_outputs_too(server: tc.Server) -> None:
    before = memory.live_count()
    with tc.CallableAllocator(lambda _name, _size, place: place) as allocator:
        assert infer(server, allocator, count=0) == []
        assert allocator.live == 0
        assert [(r.nbytes, r.address, r.released_ns > 0) for r in allocator.records] == [(0, 0, True)] * 2
    assert memory.live_count() == before


@pytest.mark.parametrize(
    ("allocate", "error", "message"),
    [
        (lambda *_: 1 / 0, InternalError, "output 'OUTPUT0': ZeroDivisionError: division by zero"),
        (lambda *_: _raise(NotFoundError("no such memory")), NotFoundError, "no such memory"),
        (lambda *_: tc.Buffer.zeros(3), InternalError, "ValueError: the buffer has 3 bytes, 16 are needed"),
        (lambda *_: None, InternalError, "output 'OUTPUT0': "),
        (lambda *_: "cpu", InternalError, "output 'OUTPUT0': "),
        (lambda *_: _raise(KeyboardInterrupt()), InternalError, "KeyboardInterrupt"),
    ],
)
def test_a_function_that_fails(server: tc.Server, allocate: Any, error: type[Exception], message: str) -> None:
    with tc.CallableAllocator(allocate) as allocator:
        with pytest.raises(error, match=message):
            infer(server, allocator)
        assert len(allocator.errors) >= 1
        assert allocator.live == 0


def _raise(error: BaseException) -> Any:
    raise error


def test_other_callbacks_that_fail(server: tc.Server) -> None:
    def place(_name: str, _nbytes: int, preferred: tc.Place) -> tc.Place:
        return preferred

    def fail(*_: Any) -> Any:
        raise InvalidArgError("not now")

    with tc.CallableAllocator(place, on_start=fail) as allocator:
        assert infer(server, allocator) == [0, 2, 4, 6], "Triton only logs this one"
        assert [str(error) for error in allocator.errors] == ["[INVALID_ARG] not now"]
        assert allocator.live == 0
    with tc.CallableAllocator(place, on_attributes=fail) as allocator:
        with pytest.raises((InvalidArgError, InternalError), match="not now"):
            infer(server, allocator)
        assert allocator.live == 0


def test_python_callbacks_one_by_one(library: tc.Library) -> None:
    import ctypes

    api = library.api
    questions: list[Any] = []

    def query(tensor: str | None, nbytes: int | None, place: tc.Place) -> tc.Place:
        questions.append((tensor, nbytes, place))
        if tensor == "FAIL":
            raise KeyError(tensor)
        return tc.CPU

    with tc.CallableAllocator(lambda *_: tc.CPU, on_query=query) as allocator:
        kind, device = ctypes.c_int(tc.MemoryType.GPU), ctypes.c_int64(3)
        assert not allocator._query_callback(allocator.pointer, None, b"T", ctypes.c_size_t(9), kind, device)
        assert (kind.value, device.value) == (tc.MemoryType.CPU, 0)
        assert not allocator._query_callback(allocator.pointer, None, None, None, kind, device)
        assert questions == [("T", 9, tc.gpu(3)), (None, None, tc.CPU)]
        release = allocator._callbacks[1]
        for error in (
            allocator._query_callback(allocator.pointer, None, b"FAIL", None, kind, device),
            release(allocator.pointer, 1, 77, 1, 0, 0),
        ):
            assert isinstance(api.take_error(ctypes.cast(error, type(api.ErrorNew(0, b"")))), InternalError)
        assert [type(error) for error in allocator.errors] == [KeyError, Error]


# Closed while it is needed


@pytest.fixture
def patient(make_server: Callable[..., tc.Server], tools: Any, tmp_path: Path) -> Iterator[list[tc.InferenceRequest]]:
    """Two requests that take a third of a second each."""
    tools.add_model(tmp_path, "model", execute_delay_ms=300)
    server = make_server(tmp_path, startup_models=["model"])
    given = {"INPUT0": np.array([1], np.int32)}
    with server.request("model", given) as one, server.request("model", given) as two:
        yield [one, two]


@pytest.mark.parametrize("kind", [tc.ResponseAllocator, lambda: tc.CallableAllocator(lambda *_: tc.CPU)])
def test_an_allocator_stays_while_a_request_in_flight_uses_it(patient: list[tc.InferenceRequest], kind: Any) -> None:
    allocator = kind()
    future = patient[0].infer_async(allocator=allocator)
    with pytest.raises(Error, match=r"1 request\(s\) in flight use this \w+ allocator: wait for their answers"):
        allocator.close()
    future.result(20).close()
    allocator.close()


def test_an_allocator_left_by_a_time_out_is_not_deleted(patient: list[tc.InferenceRequest], tools: Any) -> None:
    one, two = patient
    allocators = tc.ResponseAllocator(), tc.ResponseAllocator()
    left = [(allocator, allocator.pointer) for allocator in allocators]
    with pytest.raises(tc.InferTimeout), allocators[0]:
        one.infer(timeout=0.02, allocator=allocators[0])
    with pytest.raises(tc.InferTimeout), allocators[1]:
        two._server.infer_many([two], timeout=0.02, allocator=allocators[1])
    assert all(allocator.closed for allocator, _ in left), "they are Triton's, which may ask them yet"
    assert tools.wait_for(lambda: not one.in_flight and not two.in_flight)
    one.close()
    two.close()
    for allocator, pointer in left:  # nobody does that but a test that must not leak
        assert tools.wait_for(lambda allocator=allocator: allocator.counts.live == 0)
        allocator._dispose(pointer)


def test_an_allocator_stays_while_traffic_uses_it(server: tc.Server) -> None:
    values = np.array([1], np.int32)
    allocator = tc.ResponseAllocator()
    target = tc.Target("add_sub", {"INPUT0": values, "INPUT1": values}, allocator=allocator)
    with tc.Traffic(server, target, requests=10) as traffic:
        with pytest.raises(Error, match="traffic uses this response allocator: close the traffic first"):
            allocator.close()
        traffic.start()
        traffic.wait()
    assert traffic.report.counts.completed == 10
    allocator.close()


def test_bad_reservations(server: tc.Server) -> None:
    with tc.ResponseAllocator(reuse=True, library=server.library) as allocator:
        for size in (0, -1, 64.5, 1 << 63, 2**64 + 64):
            with pytest.raises(ValueError, match="a size in bytes"):
                allocator.reserve(tc.CPU, size)  # type: ignore[arg-type]
    with pytest.raises(ClosedError):
        allocator.reserve(tc.CPU, 64)
