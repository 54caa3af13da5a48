"""The allocator of requests that name none: counts, and nothing else that threads would share."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi._types import Error_p
from tritoncapi.default_allocator import DefaultAllocator
from tritoncapi.errors import ClosedError, Error, InternalError, UnavailableError


def pair(count: int = 4) -> dict[str, Any]:
    values = np.arange(count, dtype=np.int32)
    return {"INPUT0": values, "INPUT1": values}


@pytest.fixture
def allocator(library: tc.Library) -> Iterator[DefaultAllocator]:
    with DefaultAllocator(library, lambda: None) as made:
        yield made


def called(library: tc.Library, error: int | None) -> None:
    """Raises what one of the callbacks returned."""
    if error:
        raise library.api.take_error(ctypes.cast(error, Error_p), "callback")


def allocate(library: tc.Library, allocator: DefaultAllocator, nbytes: int) -> tuple[int, int, int, int]:
    """What the callback says to Triton: buffer, its user pointer, memory type, device."""
    buffer, userp, kind, device = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int(-1), ctypes.c_int64(-1)
    to = [ctypes.byref(value) for value in (buffer, userp, kind, device)]
    wanted = tc.MemoryType.GPU, 1
    called(
        library,
        library.native.counting_alloc_fn(allocator.pointer, b"OUTPUT0", nbytes, *wanted, allocator.userp, *to),
    )
    return buffer.value or 0, userp.value or 0, kind.value, device.value


def test_counts_of_a_server(server: tc.Server) -> None:
    before = server.default_allocator.counts
    with server.infer("add_sub", pair()) as response:
        assert [output.address % 64 for output in response] == [0, 0]
        assert response["OUTPUT0"].numpy().tolist() == [0, 2, 4, 6]
        counts = server.default_allocator.counts
        assert (counts.allocations - before.allocations, counts.releases - before.releases) == (2, 0)
        assert (counts.live, counts.live_bytes) == (2, 32)
    counts = server.default_allocator.counts
    assert (counts.releases - before.releases, counts.live, counts.live_bytes) == (2, 0, 0)
    assert (counts.failures, counts.mismatched) == (0, 0)


def test_empty_outputs(server: tc.Server, allocator: DefaultAllocator) -> None:
    with server.infer("add_sub", pair(0), allocator=allocator) as response:
        assert response["OUTPUT0"].numpy().tolist() == []
    counts = allocator.counts
    assert (counts.allocations, counts.zero_sized, counts.releases, counts.live) == (2, 2, 0, 0)


def test_all_on_the_cpu_whatever_is_preferred(library: tc.Library, allocator: DefaultAllocator) -> None:
    kind, device = ctypes.c_int(tc.MemoryType.GPU), ctypes.c_int64(1)
    to = ctypes.byref(kind), ctypes.byref(device)
    called(library, library.native.counting_query_fn(allocator.pointer, allocator.userp, b"OUTPUT0", None, *to))
    assert (kind.value, device.value) == (tc.MemoryType.CPU, 0)
    for nbytes in (1, 64, 100_000):
        buffer, userp, *place = allocate(library, allocator, nbytes)
        assert place == [tc.MemoryType.CPU, 0]
        ctypes.memset(buffer, 0xFF, nbytes)
        called(library, library.native.counting_release_fn(allocator.pointer, buffer, userp, nbytes, 0, 0))
    assert allocator.counts.mismatched == 0


@pytest.mark.parametrize("wrong", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
def test_a_release_that_names_something_else(
    library: tc.Library, allocator: DefaultAllocator, wrong: tuple[int, int, int, int]
) -> None:
    buffer, userp, *_ = allocate(library, allocator, 8)
    said = [right + off for right, off in zip((buffer, 8, 0, 0), wrong, strict=True)]
    called(library, library.native.counting_release_fn(allocator.pointer, said[0], userp, *said[1:]))
    counts = allocator.counts
    assert (counts.mismatched, counts.releases, counts.live, counts.live_bytes) == (1, 1, 0, 0)


def test_releases_without_an_allocation(library: tc.Library, allocator: DefaultAllocator) -> None:
    release = library.native.counting_release_fn
    called(library, release(allocator.pointer, None, None, 0, 0, 0))  # an empty output
    with pytest.raises(InternalError, match="release without an allocation"):
        called(library, release(allocator.pointer, 64, None, 8, 0, 0))
    assert allocator.counts == tc.AllocatorCounts()


def test_more_than_there_is(library: tc.Library, allocator: DefaultAllocator) -> None:
    with pytest.raises(UnavailableError, match="out of host memory"):
        allocate(library, allocator, 2**64 - 1)
    assert (allocator.counts.failures, allocator.counts.allocations, allocator.counts.live) == (1, 0, 0)


def test_closing_it(server: tc.Server, library: tc.Library) -> None:
    allocator = DefaultAllocator(library, lambda: None)
    response = server.infer("add_sub", pair(), allocator=allocator)
    with pytest.raises(Error, match=r"default allocator still has 2 buffer\(s\) out"):
        allocator.close()
    response.close()
    allocator.close()
    assert allocator.counts == tc.AllocatorCounts()
    with pytest.raises(ClosedError):
        server.infer("add_sub", pair(), allocator=allocator)
    with DefaultAllocator(library, lambda: None) as another:  # in the same memory
        assert another.counts == tc.AllocatorCounts()


def test_none_is_made_for_a_closed_server(make_server: Callable[..., tc.Server], models: Path) -> None:
    server = make_server(models)
    server.close()
    with pytest.raises(ClosedError, match="this server is closed"):
        server.default_allocator  # noqa: B018


def test_counts_while_threads_use_it(server: tc.Server, allocator: DefaultAllocator) -> None:
    workers, rounds, barrier = 12, 50, threading.Barrier(13)  # more than there are shards

    def work() -> None:
        with server.request("add_sub", pair()) as request:
            barrier.wait(20)
            for _ in range(rounds):
                request.infer(allocator=allocator).close()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    barrier.wait(20)
    working = True
    while working:
        working = any(thread.is_alive() for thread in threads)
        counts = allocator.counts
        # Those that came and went while the counters were read may count as out; less than none would be a huge number.
        assert 0 <= counts.live <= 2 * workers * rounds
        assert 0 <= counts.live_bytes <= 2 * workers * rounds * 16
    counts = allocator.counts
    assert (counts.allocations, counts.releases, counts.live) == (2 * workers * rounds, 2 * workers * rounds, 0)
    assert (counts.live_bytes, counts.mismatched) == (0, 0)
