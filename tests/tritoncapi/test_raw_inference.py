"""Inferences and a server through the bare functions, with callbacks in Python: what else only native code calls."""

from __future__ import annotations

import ctypes
import json
import threading
from ctypes import c_char_p, c_int64, c_void_p
from typing import Any

import numpy as np
import pytest

import tritoncapi as tc
from tritoncapi import _types as T
from tritoncapi.errors import CancelledError, InvalidArgError


class Raw:
    """The callbacks of one request, with an allocator that gives CPU memory."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.response: Any = None
        self.flags: list[int] = []
        self.done, self.released = threading.Event(), threading.Event()
        self.fail: tuple[int, str] | None = None
        self.attributes: Any = None
        # Referenced for as long as Triton may call them.
        self.alloc_fn, self.release_fn = T.AllocFn(self._alloc), T.ReleaseFn(self._release)
        self.start_fn, self.query_fn = T.StartFn(self._start), T.QueryFn(self._query)
        self.attributes_fn = T.BufferAttributesFn(self._attributes)
        self.request_fn, self.response_fn = T.RequestReleaseFn(self._request), T.ResponseCompleteFn(self._response)

    def _alloc(self, *arguments: Any) -> int | None:
        _, tensor, nbytes, kind, device, userp, buffer, buffer_userp, actual_kind, actual_device = arguments
        self.calls.append(f"alloc {tensor.decode()} {nbytes} {userp}")
        if self.fail:
            return ctypes.cast(self.api.ErrorNew(self.fail[0], self.fail[1].encode()), c_void_p).value
        memory = (ctypes.c_char * nbytes)()
        buffer[0] = address = ctypes.addressof(memory)
        self.memory[address] = memory
        buffer_userp[0] = 17
        actual_kind[0], actual_device[0] = kind, device
        return None

    def _release(self, _allocator: Any, buffer: int, buffer_userp: int, nbytes: int, *_place: int) -> None:
        self.calls.append(f"release {buffer_userp} {nbytes}")
        del self.memory[buffer]

    def _start(self, _allocator: Any, userp: int) -> None:
        self.calls.append(f"start {userp}")

    def _query(self, *_arguments: Any) -> None:
        self.calls.append("query")

    def _attributes(self, _allocator: Any, tensor: bytes, attributes: Any, userp: int, buffer_userp: int) -> None:
        self.calls.append(f"attributes {tensor.decode()} {userp} {buffer_userp}")
        # No assertion here: what ctypes returns to C after an exception is no NULL.
        handle = ctypes.create_string_buffer(bytes(range(64)), 64)
        self.api.BufferAttributesSetMemoryType(attributes, tc.MemoryType.CPU)
        self.api.BufferAttributesSetMemoryTypeId(attributes, 0)
        self.api.BufferAttributesSetByteSize(attributes, 8)
        self.api.BufferAttributesSetCudaIpcHandle(attributes, ctypes.addressof(handle))
        self.attributes = (
            self.api.BufferAttributesMemoryType(attributes),
            self.api.BufferAttributesMemoryTypeId(attributes),
            self.api.BufferAttributesByteSize(attributes),
            bool(self.api.BufferAttributesCudaIpcHandle(attributes)),
        )

    def _request(self, _request: Any, flags: int, userp: int) -> None:
        self.calls.append(f"request {flags} {userp}")
        self.released.set()

    def _response(self, response: Any, flags: int, userp: int) -> None:
        self.calls.append(f"response {flags} {userp}")
        if response:
            self.response = ctypes.cast(response, T.InferenceResponse_p)
        if flags & T.ResponseCompleteFlag.FINAL:
            self.done.set()

    def wait(self) -> None:
        assert self.done.wait(20)
        assert self.released.wait(20)


@pytest.fixture
def raw(library: tc.Library) -> Raw:
    return Raw(library.api)


@pytest.fixture
def allocator(raw: Raw) -> Any:
    pointer = raw.api.ResponseAllocatorNew(raw.alloc_fn, raw.release_fn, raw.start_fn)
    raw.api.ResponseAllocatorSetQueryFunction(pointer, raw.query_fn)
    raw.api.ResponseAllocatorSetBufferAttributesFunction(pointer, raw.attributes_fn)
    yield pointer
    raw.api.ResponseAllocatorDelete(pointer)


def add_input(api: Any, request: Any, name: bytes, values: Any) -> None:
    api.InferenceRequestAddInput(request, name, tc.DataType.INT32, (c_int64 * 1)(len(values)), 1)
    api.InferenceRequestAppendInputData(request, name, values.ctypes.data, values.nbytes, tc.MemoryType.CPU, 0)


LEFT, RIGHT = np.array([1, 2], np.int32), np.array([10, 20], np.int32)


def start(api: Any, server: Any, request: Any, allocator: Any, raw: Raw, trace: Any = None) -> None:
    api.InferenceRequestSetReleaseCallback(request, raw.request_fn, 5)
    api.InferenceRequestSetResponseCallback(request, allocator, 6, raw.response_fn, 7)
    api.ServerInferAsync(server, request, trace)


def test_an_inference(server: tc.Server, raw: Raw, allocator: Any) -> None:
    api, pointer = raw.api, server.pointer
    request = api.InferenceRequestNew(pointer, b"add_sub", -1)
    api.InferenceRequestSetId(request, b"raw")
    assert api.InferenceRequestId(request) == b"raw"
    add_input(api, request, b"INPUT0", LEFT)
    add_input(api, request, b"INPUT1", RIGHT)
    start(api, pointer, request, allocator, raw)
    raw.wait()

    response = raw.response
    assert not api.InferenceResponseError(response)
    assert api.InferenceResponseModel(response) == (b"add_sub", 1)
    assert api.InferenceResponseId(response) == b"raw"
    count = api.InferenceResponseParameterCount(response)
    names = [api.InferenceResponseParameter(response, index)[0] for index in range(count)]
    assert b"computed_on" in names
    assert api.InferenceResponseOutputCount(response) == 2
    for index, wanted in enumerate((LEFT + RIGHT, LEFT - RIGHT)):
        name, datatype, shape, dims, base, nbytes, kind, device, userp = api.InferenceResponseOutput(response, index)
        assert (name, datatype, shape[:dims]) == (f"OUTPUT{index}".encode(), tc.DataType.INT32, [2])
        assert (nbytes, kind, device, userp) == (8, tc.MemoryType.CPU, 0, 17)
        assert ctypes.string_at(base, nbytes) == wanted.tobytes()
        assert api.InferenceResponseOutputClassificationLabel(response, index, 0) is None
    api.InferenceResponseDelete(response)
    api.InferenceRequestDelete(request)
    assert raw.memory == {}
    assert raw.attributes == (tc.MemoryType.CPU, 0, 8, True)
    assert sorted(raw.calls) == sorted(
        [
            "start 6",
            *(f"alloc OUTPUT{index} 8 6" for index in range(2)),
            *(f"attributes OUTPUT{index} 6 17" for index in range(2)),
            *["release 17 8"] * 2,
            "response 1 7",
            "request 1 5",
        ]
    )


def test_an_allocator_that_fails(server: tc.Server, raw: Raw, allocator: Any) -> None:
    api, pointer = raw.api, server.pointer
    raw.fail = (T.ErrorCode.UNSUPPORTED, "no memory of this kind")
    request = api.InferenceRequestNew(pointer, b"add_sub", 1)
    add_input(api, request, b"INPUT0", LEFT)
    add_input(api, request, b"INPUT1", RIGHT)
    start(api, pointer, request, allocator, raw)
    raw.wait()
    error = api.InferenceResponseError(raw.response)  # the response's: read, not deleted
    assert api.ErrorCode(error) == T.ErrorCode.UNSUPPORTED
    assert api.ErrorCodeString(error) == b"Unsupported"
    assert b"no memory of this kind" in api.ErrorMessage(error)
    api.InferenceResponseDelete(raw.response)
    api.InferenceRequestDelete(request)


def test_a_cancelled_request(server: tc.Server, raw: Raw, allocator: Any) -> None:
    api, pointer = raw.api, server.pointer
    request = api.InferenceRequestNew(pointer, b"slow", 1)
    add_input(api, request, b"INPUT0", LEFT)
    start(api, pointer, request, allocator, raw)
    assert not api.InferenceRequestIsCancelled(request)
    api.InferenceRequestCancel(request)
    assert api.InferenceRequestIsCancelled(request)
    raw.wait()
    found = api.read_error(api.InferenceResponseError(raw.response))
    assert isinstance(found, CancelledError)
    api.InferenceResponseDelete(raw.response)
    api.InferenceRequestDelete(request)


def test_a_submission_that_is_refused_stays_ours(server: tc.Server, raw: Raw, allocator: Any) -> None:
    api, pointer = raw.api, server.pointer
    request = api.InferenceRequestNew(pointer, b"add_sub", -1)
    with pytest.raises(InvalidArgError) as caught:
        start(api, pointer, request, allocator, raw)
    assert caught.value.call == "ServerInferAsync"
    assert raw.calls == []
    api.InferenceRequestDelete(request)


def test_a_trace(server: tc.Server, raw: Raw, allocator: Any) -> None:
    api, pointer = raw.api, server.pointer
    seen: list[Any] = []
    released = threading.Event()

    def activity(trace: Any, kind: int, stamp: int, userp: int) -> None:
        seen.append((kind, userp, api.InferenceTraceModelName(trace)))

    def tensor(_trace: Any, kind: int, name: bytes, *arguments: Any) -> None:
        seen.append((kind, arguments[-1], name))

    def release(trace: Any, userp: int) -> None:
        api.InferenceTraceDelete(trace)
        released.set()

    callbacks = T.TraceActivityFn(activity), T.TraceTensorActivityFn(tensor), T.TraceReleaseFn(release)
    level = tc.TraceLevel.TIMESTAMPS | tc.TraceLevel.TENSORS
    trace = api.InferenceTraceTensorNew(level, 3, *callbacks, 9)
    api.InferenceTraceSetContext(trace, b"context")
    assert (api.InferenceTraceContext(trace), api.InferenceTraceParentId(trace)) == (b"context", 3)
    assert api.InferenceTraceId(trace) > 0
    request = api.InferenceRequestNew(pointer, b"add_sub", -1)
    add_input(api, request, b"INPUT0", LEFT)
    add_input(api, request, b"INPUT1", RIGHT)
    start(api, pointer, request, allocator, raw, trace)
    raw.wait()
    assert not released.is_set(), "a response keeps its trace"
    api.InferenceResponseDelete(raw.response)
    assert released.wait(20)
    assert (T.TraceActivity.REQUEST_START, 9, b"add_sub") in seen
    assert (T.TraceActivity.TENSOR_QUEUE_INPUT, 9, b"INPUT0") in seen
    api.InferenceRequestDelete(request)
    plain = api.InferenceTraceNew(tc.TraceLevel.TIMESTAMPS, 0, callbacks[0], callbacks[2], None)
    api.InferenceTraceReportActivity(plain, 1, b"mine")
    assert seen[-1][:2] == (T.TraceActivity.CUSTOM_ACTIVITY, None)
    api.InferenceTraceDelete(plain)


def test_what_the_classes_leave_out(server: tc.Server) -> None:
    """Functions that a newer one has replaced."""
    api = server.library.api
    request = api.InferenceRequestNew(server.pointer, b"queued", -1)
    api.InferenceRequestSetPriority(request, 4)
    assert api.InferenceRequestPriority(request) == 4
    assert api.InferenceRequestPriorityUInt64(request) == 4
    api.InferenceRequestSetCorrelationIdString(request, b"text")
    assert api.InferenceRequestCorrelationIdString(request) == b"text"
    with pytest.raises(InvalidArgError, match="not an unsigned int"):
        api.InferenceRequestCorrelationId(request)
    api.InferenceRequestDelete(request)


def test_a_server(library: tc.Library, repository: Any, backends: Any) -> None:
    api = library.api
    options = api.ServerOptionsNew()
    api.ServerOptionsSetModelRepositoryPath(options, str(repository).encode())
    api.ServerOptionsSetBackendDirectory(options, str(backends).encode())
    api.ServerOptionsSetModelControlMode(options, tc.ModelControlMode.EXPLICIT)
    api.ServerOptionsSetModelLoadRetryCount(options, 0)
    api.ServerOptionsSetLogInfo(options, False)
    server = api.ServerNew(options)
    api.ServerOptionsDelete(options)
    api.ServerLoadModel(server, b"add_sub")
    assert api.ServerIsLive(server)
    assert api.ServerIsReady(server)
    assert api.ServerModelIsReady(server, b"add_sub", -1)
    message = api.ServerModelConfig(server, b"add_sub", 1, 1)
    base, size = api.MessageSerializeToJson(message)
    assert json.loads(ctypes.string_at(base, size))["name"] == "add_sub"
    api.MessageDelete(message)
    for version in (0, 2):
        with pytest.raises(InvalidArgError, match=f"configuration version {version} not supported"):
            api.ServerModelConfig(server, b"add_sub", 1, version)
    metrics = api.ServerMetrics(server)
    base, size = api.MetricsFormatted(metrics, T.MetricFormat.PROMETHEUS)
    assert b"nv_inference_request_success" in ctypes.string_at(base, size)
    api.MetricsDelete(metrics)
    api.ServerUnloadModel(server, b"add_sub")
    api.ServerSetExitTimeout(server, 5)
    api.ServerStop(server)
    api.ServerDelete(server)


def test_text_arguments_are_bytes(library: tc.Library) -> None:
    with pytest.raises(ctypes.ArgumentError):
        library.api.StringToDataType("FP32")
    assert library.api.StringToDataType(b"nonsense") == tc.DataType.INVALID
    assert c_char_p(library.api.DataTypeString(tc.DataType.FP32)).value == b"FP32"
