"""ctypes face of the native part: calls, response allocators. See native/*.c for what each function does."""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from . import _types as T
from ._builtin import Call, builtins_of
from .errors import LibraryError, MissingFunctionError

_NAME = "libtritoncapi_native.so"


class Event(ctypes.Structure):
    """``struct tc_event``: one response callback. ``response`` is NULL for a final flag that came alone."""

    response: Any
    time_ns: int
    flags: int
    _fields_ = [("response", T.InferenceResponse_p), ("time_ns", c_int64), ("flags", c_uint32)]


class State(ctypes.Structure):
    """``struct tc_state``: what a call has seen so far. Times are ns of CLOCK_MONOTONIC, 0: not yet."""

    responses: int
    finals: int
    releases: int
    reschedules: int
    waiting: int
    done: int
    start_ns: int
    first_response_ns: int
    final_ns: int
    release_ns: int
    thread: int
    _fields_ = [
        *((name, c_uint32) for name in ("responses", "finals", "releases", "reschedules", "waiting", "done")),
        *((name, c_int64) for name in ("start_ns", "first_response_ns", "final_ns", "release_ns", "thread")),
    ]


class Record(ctypes.Structure):
    """``struct tc_record``: one allocation."""

    tensor: bytes
    buffer: int | None
    sequence: int
    byte_size: int
    preferred_id: int
    actual_id: int
    allocated_ns: int
    released_ns: int
    preferred_type: int
    actual_type: int
    releases: int
    mismatched: int
    _fields_ = [
        ("tensor", c_char_p),
        ("buffer", c_void_p),
        ("sequence", c_uint64),
        ("byte_size", c_uint64),
        ("preferred_id", c_int64),
        ("actual_id", c_int64),
        ("allocated_ns", c_int64),
        ("released_ns", c_int64),
        ("preferred_type", c_int32),
        ("actual_type", c_int32),
        ("releases", c_uint32),
        ("mismatched", c_uint32),
    ]


class Counts(ctypes.Structure):
    """``struct tc_counts``: totals of one allocator."""

    starts: int
    queries: int
    attributes: int
    allocations: int
    failures: int
    zero_sized: int
    releases: int
    double_releases: int
    mismatched: int
    free_failures: int
    live: int
    live_bytes: int
    peak_bytes: int
    reused: int
    _fields_ = [
        (name, c_uint64)
        for name in (
            *("starts", "queries", "attributes", "allocations", "failures", "zero_sized", "releases"),
            *("double_releases", "mismatched", "free_failures", "live", "live_bytes", "peak_bytes", "reused"),
        )
    ]


RUN_THREADS = 8
RUN_TAKEN = 2  # and above: within a call of many


class Run(ctypes.Structure):
    """``struct tc_run``: one request in one native call. ``response`` is an address, NULL without a whole answer."""

    allocator: Any
    allocator_userp: int | None
    timeout_ns: int
    state: int
    thread_count: int
    threads: Any
    look: int | None
    key: int
    response: int | None
    time_ns: int
    thread: int
    final: int
    failed: int
    _fields_ = [
        ("server", T.Server_p),
        ("request", T.InferenceRequest_p),
        ("allocator", T.ResponseAllocator_p),
        ("allocator_userp", c_void_p),
        ("trace", T.InferenceTrace_p),
        ("timeout_ns", c_int64),
        ("aside", c_void_p),
        ("state", c_uint32),
        ("thread_count", c_uint32),
        ("threads", c_int64 * RUN_THREADS),
        ("taker", c_int64),
        ("look", c_void_p),
        ("key", c_uint64),
        ("response", c_void_p),
        ("time_ns", c_int64),
        ("thread", c_int64),
        ("final", c_uint32),
        ("failed", c_uint32),
    ]


RUN_RESPONSE: int = Run.__dict__["response"].offset  # bytes
RUN_RESULTS = struct.Struct("QPqqII")  # key and what follows
RUN_RESULTS_AT: int = Run.__dict__["key"].offset


class Input(ctypes.Structure):
    """``struct tc_input``: one input of a form."""

    _fields_ = [
        ("name", c_char_p),
        ("shape", c_void_p),
        ("dims", c_uint64),
        ("byte_size", c_size_t),
        ("device", c_int64),
        *((name, c_int) for name in ("datatype", "memory_type")),
    ]


class Once(ctypes.Structure):
    """``struct tc_once``: a whole request in one native call."""

    server: Any
    model: bytes
    version: int
    inputs: int
    arrays: int
    count: int
    data_at: int
    allocator: Any
    allocator_userp: int | None
    timeout_ns: int
    look: int
    call: bytes
    request: Any
    key: int
    response: int | None
    failed: int
    _fields_ = [
        ("server", T.Server_p),
        ("model", c_char_p),
        ("version", c_int64),
        ("inputs", c_void_p),
        ("arrays", c_void_p),
        ("count", c_size_t),
        ("data_at", c_size_t),
        ("allocator", T.ResponseAllocator_p),
        ("allocator_userp", c_void_p),
        ("timeout_ns", c_int64),
        ("look", c_void_p),
        ("call", c_char_p),
        ("request", T.InferenceRequest_p),
        ("key", c_uint64),
        ("response", c_void_p),
        ("time_ns", c_int64),
        ("thread", c_int64),
        ("final", c_uint32),
        ("failed", c_uint32),
    ]


ONCE_ANSWER = struct.Struct("PqqII")  # response and what follows
ONCE_ANSWER_AT: int = Once.__dict__["response"].offset  # bytes
ONCE_REQUEST_AT: int = Once.__dict__["request"].offset


class Answer(ctypes.Structure):
    """``struct tc_answer``: one of many."""

    response: int | None
    time_ns: int
    thread: int
    final: int
    failed: int
    _fields_ = [
        ("response", c_void_p),
        ("time_ns", c_int64),
        ("thread", c_int64),
        ("final", c_uint32),
        ("failed", c_uint32),
    ]


class Many(ctypes.Structure):
    """``struct tc_many``: many requests in one native call."""

    runs: int
    answers: int
    calls: int
    count: int
    lender: int | None
    timeout_ns: int
    ready: int
    submitted: int
    unfinished: int
    _fields_ = [
        *((name, c_void_p) for name in ("runs", "answers", "calls")),
        ("count", c_size_t),
        ("lender", c_void_p),
        ("chosen", T.ResponseAllocator_p),
        ("chosen_userp", c_void_p),
        *((name, c_int64) for name in ("timeout_ns", "ready")),
        *((name, c_size_t) for name in ("submitted", "settled", "unfinished")),
    ]


NOT_READY = c_size_t(-1).value  # instead of how many were submitted
NOT_WHOLE = 1  # instead of an error's address: it says what is left
NOT_KEPT = 2  # all came; not to be left in the answers when they are closed


class TrafficOptions(ctypes.Structure):
    """``struct tc_traffic_options``."""

    _fields_ = [
        *((name, c_double) for name in ("rate", "max_error_rate")),
        *((name, c_uint64) for name in ("seed", "requests", "warmup_requests", "check_every", "least_for_errors")),
        *((name, c_int64) for name in ("duration_ns", "warmup_ns", "patience_ns")),
        *((name, c_uint32) for name in ("poisson", "threads", "targets", "concurrency")),
    ]


class TargetOptions(ctypes.Structure):
    """``struct tc_target_options``."""

    _fields_ = [
        ("weight", c_double),
        ("cancel_rate", c_double),
        ("allocator", T.ResponseAllocator_p),
        ("allocator_userp", c_void_p),
        ("sequence_length", c_uint32),
        ("decoupled", c_uint32),
    ]


CODES = 8  # TC_CODES


class TrafficCounts(ctypes.Structure):
    """``struct tc_traffic_counts``."""

    codes: Any
    _fields_ = [
        *(
            (name, c_uint64)
            for name in (
                *("submitted", "warmup", "completed", "errors", "refused", "warmup_refused", "responses", "cancels"),
                *("sequences", "unsent", "lost", "samples", "skipped"),
            )
        ),
        ("codes", c_uint64 * CODES),
    ]


class Sample(ctypes.Structure):
    """``struct tc_sample``: a response that was picked to be checked."""

    response: Any
    inputs: int
    correlation: int
    intended_ns: int
    submit_ns: int
    final_ns: int
    target: int
    step: int
    last: int
    _fields_ = [
        ("response", T.InferenceResponse_p),
        *((name, c_uint64) for name in ("inputs", "correlation")),
        *((name, c_int64) for name in ("intended_ns", "submit_ns", "final_ns")),
        *((name, c_uint32) for name in ("target", "step", "last")),
    ]


class Cell(ctypes.Structure):
    """``struct tc_cell``."""

    completed: int
    errors: int
    latency_sum_ns: int
    latency_max_ns: int
    _fields_ = [(name, c_uint64) for name in ("completed", "errors", "latency_sum_ns", "latency_max_ns")]


class Native:
    """The native library, bound to one loaded libtritonserver."""

    def __init__(self, triton: ctypes.CDLL) -> None:
        path = str(_path())
        unlocked, locked = ctypes.CDLL(path), ctypes.PyDLL(path)

        def bind(dll: ctypes.CDLL, name: str, restype: Any, *argtypes: Any) -> Any:
            function = getattr(dll, "tc_" + name)
            function.restype, function.argtypes = restype, argtypes
            return function

        bind_triton = bind(locked, "bind", c_char_p, c_void_p)
        lacking = bind_triton(triton._handle)
        if lacking:
            raise MissingFunctionError(f"the library has no {lacking.decode()}: inference is impossible with it")

        self.call_start = bind(
            *(unlocked, "call_start", T.Error_p, T.Server_p, T.InferenceRequest_p, T.ResponseAllocator_p),
            *(c_void_p, T.InferenceTrace_p, POINTER(c_uint64)),
        )
        # Addresses in, an error's address or None out: what is called for each request must cost little.
        builtin = builtins_of(unlocked)
        self.call_run: Call = builtin("unlocked", "call_run")
        self.many_run: Call = builtin("unlocked", "many_run")
        self.once_run: Call = builtin("unlocked", "once_run")
        self.run_put_aside = builtin("locked", "run_put_aside")  # with the interpreter lock: it is quick
        self.calls_using = bind(unlocked, "calls_using", c_uint64, T.ResponseAllocator_p)
        self.cores_set = bind(locked, "cores_set", None, c_int)
        self.cores = bind(locked, "cores", c_int)
        self.cores_of_groups = bind(locked, "cores_of_groups", c_int, c_char_p, c_char_p)
        self.run_own = bind(unlocked, "run_own", c_int, POINTER(Run), c_int64)
        self.run_leave = bind(locked, "run_leave", None, POINTER(Run), c_int)
        self.run_clear = bind(unlocked, "run_clear", None, POINTER(Run), c_int)
        # Quick enough to keep the interpreter lock.
        self.response_error_done = bind(locked, "response_error_done", None, T.InferenceResponse_p, T.Error_p)
        self.many_put_aside = bind(locked, "many_put_aside", c_int, c_void_p)
        self.many_let_go = bind(locked, "many_let_go", None, c_void_p)
        self.many_delete = bind(unlocked, "many_delete", c_void_p, c_void_p)
        self.outputs_read = bind(locked, "outputs_read", c_int64, T.InferenceResponse_p, c_void_p, c_uint32)
        self.inbox_new = bind(locked, "inbox_new", c_void_p, POINTER(c_int))
        self.inbox_close = bind(locked, "inbox_close", None, c_void_p)
        self.inbox_collect = bind(locked, "inbox_collect", c_size_t, c_void_p, c_void_p, c_void_p, c_size_t)
        self.calls_post = bind(unlocked, "calls_post", c_size_t, *(c_void_p, c_void_p, c_void_p), c_size_t, c_void_p)
        self.answers_delete = bind(unlocked, "answers_delete", c_void_p, c_void_p, c_size_t)
        self.call_wait = bind(unlocked, "call_wait", c_int, c_uint64, c_int64, c_int, POINTER(State))
        self.call_take = bind(locked, "call_take", c_int, c_uint64, POINTER(Event))
        self.call_close = bind(unlocked, "call_close", None, c_uint64)
        self.notices_take = bind(unlocked, "notices_take", c_size_t, POINTER(c_uint64), c_size_t, c_int64)
        self.call_notify = bind(locked, "call_notify", c_int, c_uint64)
        self.calls_count = bind(locked, "calls_count", None, POINTER(c_uint64), POINTER(c_uint64))

        self.allocator_new = bind(locked, "allocator_new", c_void_p, c_int, c_int, c_int, c_int)
        self.allocator_rule = bind(
            *(locked, "allocator_rule", c_int, c_void_p, c_char_p, c_int, c_int, c_int64, c_int, c_char_p)
        )
        self.allocator_reserve = bind(
            *(unlocked, "allocator_reserve", c_char_p, c_void_p, c_int, c_int64, c_size_t, c_size_t)
        )
        self.allocator_counts = bind(locked, "allocator_counts", None, c_void_p, POINTER(Counts))
        self.allocator_records = bind(
            locked, "allocator_records", c_size_t, c_void_p, c_uint64, POINTER(Record), c_size_t
        )
        self.allocator_clear = bind(locked, "allocator_clear", None, c_void_p)
        self.allocator_delete = bind(locked, "allocator_delete", c_uint64, c_void_p)
        self.counting_new = bind(locked, "counting_new", c_void_p)
        self.counting_counts = bind(locked, "counting_counts", None, c_void_p, POINTER(Counts))
        self.counting_delete = bind(locked, "counting_delete", None, c_void_p)
        self._bind_traffic(bind, unlocked, locked)
        self.alloc_fn = T.AllocFn(("tc_allocator_alloc", unlocked))
        self.release_fn = T.ReleaseFn(("tc_allocator_release", unlocked))
        self.start_fn = T.StartFn(("tc_allocator_start", unlocked))
        self.query_fn = T.QueryFn(("tc_allocator_query", unlocked))
        self.counting_alloc_fn = T.AllocFn(("tc_counting_alloc", unlocked))
        self.counting_release_fn = T.ReleaseFn(("tc_counting_release", unlocked))
        self.counting_query_fn = T.QueryFn(("tc_counting_query", unlocked))
        self.attributes_fn = T.BufferAttributesFn(("tc_allocator_attributes", unlocked))

    def _bind_traffic(self, bind: Any, unlocked: ctypes.CDLL, locked: ctypes.PyDLL) -> None:
        self.histogram_size = bind(locked, "histogram_size", c_size_t)
        self.histogram_clear = bind(locked, "histogram_clear", None, c_void_p)
        self.histogram_record = bind(locked, "histogram_record", None, c_void_p, c_uint64)
        self.histogram_record_many = bind(unlocked, "histogram_record_many", None, c_void_p, c_void_p, c_size_t)
        self.histogram_merge = bind(locked, "histogram_merge", None, c_void_p, c_void_p)
        self.histogram_quantile = bind(locked, "histogram_quantile", c_uint64, c_void_p, c_double)
        self.histogram_totals = bind(locked, "histogram_totals", None, c_void_p, POINTER(c_uint64))
        self.histogram_read = bind(
            locked, "histogram_read", c_size_t, c_void_p, POINTER(c_uint64), POINTER(c_uint64), c_size_t
        )
        self.series_size = bind(locked, "series_size", c_size_t)
        self.series_begin = bind(locked, "series_begin", None, c_void_p, c_int64)
        self.series_add = bind(locked, "series_add", None, c_void_p, c_int64, c_uint64, c_int)
        self.series_merge = bind(locked, "series_merge", None, c_void_p, c_void_p)
        self.series_read = bind(locked, "series_read", c_size_t, c_void_p, POINTER(Cell), c_size_t, POINTER(c_int64))

        self.traffic_new = bind(locked, "traffic_new", c_void_p, T.Server_p, POINTER(TrafficOptions))
        self.traffic_target = bind(locked, "traffic_target", None, c_void_p, c_uint32, POINTER(TargetOptions))
        self.traffic_share = bind(locked, "traffic_share", c_uint32, c_void_p, c_uint32)
        self.traffic_slot = bind(
            *(locked, "traffic_slot", T.Error_p, c_void_p, c_uint32, c_uint32, T.InferenceRequest_p, c_uint64)
        )
        self.traffic_start = bind(unlocked, "traffic_start", c_int, c_void_p)
        self.traffic_stop = bind(locked, "traffic_stop", None, c_void_p, c_int)
        self.traffic_wait = bind(unlocked, "traffic_wait", c_int, c_void_p, c_int64, POINTER(Sample))
        self.traffic_counts = bind(unlocked, "traffic_counts", None, c_void_p, c_uint32, POINTER(TrafficCounts))
        self.traffic_histogram = bind(unlocked, "traffic_histogram", None, c_void_p, c_uint32, c_int, c_void_p)
        self.traffic_series = bind(unlocked, "traffic_series", None, c_void_p, c_void_p)
        self.traffic_threads = bind(
            unlocked, "traffic_threads", c_size_t, c_void_p, c_uint32, POINTER(c_int64), c_size_t
        )
        self.traffic_state = bind(locked, "traffic_state", c_int, c_void_p, POINTER(c_int64))
        self.traffic_running = bind(locked, "traffic_running", c_uint32, c_void_p)
        self.traffic_message = bind(locked, "traffic_message", c_char_p, c_void_p, c_int)
        self.traffic_delete = bind(unlocked, "traffic_delete", c_uint64, c_void_p)
        self.slot_strays = bind(locked, "slot_strays", c_uint64)
        self.plain_alloc_fn = T.AllocFn(("tc_plain_alloc", unlocked))
        self.plain_release_fn = T.ReleaseFn(("tc_plain_release", unlocked))

    def open_calls(self) -> tuple[int, int]:
        """Calls that are open now, and responses that came for a call that was closed already."""
        opened, strays = c_uint64(), c_uint64()
        self.calls_count(ctypes.byref(opened), ctypes.byref(strays))
        return opened.value, strays.value


def _path() -> Path:
    instrumented = os.environ.get("TRITONCAPI_NATIVE")  # make sanitize: built with a sanitizer
    if instrumented:
        return Path(instrumented)
    import tritoncapi  # noqa: PLC0415 - an editable install spreads the package over two folders

    for folder in tritoncapi.__path__:
        path = Path(folder) / "native" / _NAME
        if path.exists():
            return path
    raise LibraryError(f"{_NAME} is not beside the package: install it with pip, which builds it")
