"""Handle: closed once, given away once, reported when forgotten."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from typing import Any

import pytest

import tritoncapi as tc
from tritoncapi._callbacks import Registry
from tritoncapi._handle import Handle
from tritoncapi.errors import ClosedError, InternalError


class Thing(Handle):
    noun = "thing"

    def __init__(self, pointer: Any = 1, *parents: object, error: Exception | None = None) -> None:
        super().__init__(pointer, *parents)
        self.disposed: list[Any] = []
        self.error = error

    def _dispose(self, pointer: Any) -> None:
        if self.error is not None:
            raise self.error
        self.disposed.append(pointer)


class Parent:
    pass


def test_close_deletes_once() -> None:
    thing = Thing(7)
    assert (thing.pointer, thing.closed) == (7, False)
    thing.close()
    thing.close()
    assert thing.disposed == [7]
    assert thing.closed


def test_leaving_with_closes() -> None:
    with Thing() as thing:
        assert not thing.closed
    assert thing.closed
    with pytest.raises(ValueError, match="inside"), Thing() as thing:
        raise ValueError("inside")
    assert thing.closed


def test_release_gives_the_pointer_away() -> None:
    thing = Thing(7)
    assert thing.release() == 7
    assert thing.closed
    thing.close()
    assert thing.disposed == []
    with pytest.raises(ClosedError, match="this thing is closed"):
        thing.release()


def test_use_after_close() -> None:
    thing = Thing()
    thing.close()
    with pytest.raises(ClosedError, match="this thing is closed"):
        _ = thing.pointer


def test_a_forgotten_handle_warns_and_is_not_deleted() -> None:
    thing = Thing()
    disposed = thing.disposed
    with pytest.warns(ResourceWarning, match="unclosed thing: <.*Thing"):
        del thing
        gc.collect()
    assert disposed == []


@pytest.mark.parametrize("end", ["close", "release"])
def test_no_warning_after_the_end(end: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thing = Thing()
        getattr(thing, end)()
        del thing
        gc.collect()


def test_a_failed_constructor_leaves_nothing_to_warn_about() -> None:
    class Broken(Thing):
        def __init__(self) -> None:
            raise InternalError("no")

    with pytest.raises(InternalError):
        Broken()
    gc.collect()


def test_parents_are_kept_alive() -> None:
    parent = Parent()
    alive = weakref.ref(parent)
    thing = Thing(1, parent)
    del parent
    gc.collect()
    assert alive() is not None
    thing.close()
    del thing
    gc.collect()
    assert alive() is None


def test_what_c_refuses_to_delete_stays_ours() -> None:
    thing = Thing(7, error=InternalError("still in use"))
    with pytest.raises(InternalError):
        thing.close()
    assert thing.pointer == 7
    thing.error = None
    thing.close()
    assert thing.disposed == [7]


def test_eight_threads_close_one_handle_once() -> None:
    for _ in range(50):
        thing = Thing()
        barrier = threading.Barrier(8)

        def close(thing: Thing = thing, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(10)
            thing.close()

        threads = [threading.Thread(target=close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(thing.disposed) == 1


def test_registry_never_uses_a_key_twice() -> None:
    registry: Registry[str] = Registry()
    first = registry.add("a")
    assert first > 0
    assert registry.get(first) == "a"
    assert registry.drop(first) == "a"
    assert registry.drop(first) is None
    assert registry.get(first) is registry.get(0) is registry.get(None) is None
    assert registry.add("b") != first
    assert len(registry) == 1


# The package's own handles


def handles(server: tc.Server) -> list[Handle]:
    family = tc.MetricFamily(tc.MetricKind.COUNTER, "handles_total", "test")
    return [
        family.metric({"a": "b"}),
        family,
        tc.BufferAttributes(tc.CPU, 1),
        tc.CallableAllocator(lambda _name, _nbytes, place: place),
        tc.InferenceRequest(server, "add_sub"),
        tc.Message.from_json({}),
        tc.Parameter("name", 1),
        tc.ResponseAllocator(),
        tc.Trace(),
    ]


def test_every_kind_is_closed_twice_and_then_refuses(server: tc.Server) -> None:
    for handle in handles(server):
        handle.close()
        handle.close()
        assert handle.closed
        with pytest.raises(ClosedError, match=f"this {handle.noun} is closed"):
            _ = handle.pointer
        with pytest.raises(ClosedError):
            handle.release()


def test_every_kind_warns_when_forgotten(server: tc.Server) -> None:
    made = handles(server)
    while made:
        noun, pointer = made[0].noun, made[0].pointer
        with pytest.warns(ResourceWarning, match=f"unclosed {noun}: "):
            del made[0]
            gc.collect()
        _delete(server, noun, pointer)


def _delete(server: tc.Server, noun: str, pointer: Any) -> None:
    """What nobody else does any more."""
    api = server.library.api
    {
        "metric": api.MetricDelete,
        "metric family": api.MetricFamilyDelete,
        "buffer attributes": api.BufferAttributesDelete,
        "callable allocator": api.ResponseAllocatorDelete,
        "inference request": api.InferenceRequestDelete,
        "message": api.MessageDelete,
        "parameter": api.ParameterDelete,
        "response allocator": api.ResponseAllocatorDelete,
        "inference trace": api.InferenceTraceDelete,
    }[noun](pointer)


def test_a_forgotten_response_warns(server: tc.Server, tools: Any) -> None:
    response = server.infer("add_sub", {"INPUT0": tools.ints(1), "INPUT1": tools.ints(2)})
    pointer = response.pointer
    with pytest.warns(ResourceWarning, match="unclosed inference response"):
        del response
        gc.collect()
    server.library.api.InferenceResponseDelete(pointer)


def test_a_forgotten_server_warns(make_server: Any, repository: Any, backends: Any) -> None:
    server = tc.Server(repository, backend_directory=backends, log_info=False)
    api, pointer = server.library.api, server.pointer
    with pytest.warns(ResourceWarning, match="unclosed server"):
        del server
        gc.collect()
    api.ServerStop(pointer)
    api.ServerDelete(pointer)


def test_the_server_outlives_its_requests(server: tc.Server, repository: Any, backends: Any, tools: Any) -> None:
    other = tc.Server(repository, backend_directory=backends, log_info=False, startup_models=["add_sub"])
    alive = weakref.ref(other)
    request = other.request("add_sub", {"INPUT0": tools.ints(1), "INPUT1": tools.ints(2)})
    del other
    gc.collect()
    kept = alive()
    assert kept is not None
    with request.infer() as response:
        assert response["OUTPUT0"].numpy().tolist() == [3]
    request.close()
    kept.close()


def test_use_after_close_of_a_server(repository: Any, backends: Any) -> None:
    server = tc.Server(repository, backend_directory=backends, log_info=False)
    server.close()
    server.close()
    for use in (lambda: server.live, server.index, lambda: server.load("add_sub"), server.metrics):
        with pytest.raises(ClosedError, match="this server is closed"):
            use()
