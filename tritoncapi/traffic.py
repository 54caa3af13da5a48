"""Traffic: prepared requests that native threads send again and again, and what came of it. See native/traffic.h."""

from __future__ import annotations

import ctypes
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ._library import Library
from ._native import Sample as NativeSample
from ._native import TargetOptions, TrafficOptions
from ._types import ModelTxnPropertyFlag, StartFn
from .allocator_base import Allocator, AllocatorHandle
from .dlpack import TensorView
from .errors import ClosedError, Error
from .request_content import InputData, view_of
from .response import InferenceResponse
from .traffic_report import TrafficReport, read_report

if TYPE_CHECKING:
    from .server import Server

_SLICE_NS = 100_000_000  # between looks at pending signals while one waits
_ENDED, _SAMPLE = 2, 1
_MAX_THREADS = 64  # TC_THREADS
_WRONG_KEPT = 10  # texts of failed checks
_MAX_RATE, _MAX_SECONDS, _MAX_CONCURRENCY = 1e8, 1e9, 1 << 20


@dataclass(frozen=True)
class Target:
    """A model that gets a share of the traffic.

    ``inputs``: one set, or several that are dealt out to the prepared requests. ``settings`` are attributes of
    InferenceRequest, such as ``priority`` or ``timeout_us`` (microseconds). With a ``sequence_length`` each prepared
    request runs one sequence of that many requests after the other, with ids and flags of its own
    (``TRITONSERVER_InferenceRequestSetCorrelationId``, ``...SetFlags``). ``cancel_rate`` is the share (0 to 1) of
    requests that are cancelled right after they were sent (``TRITONSERVER_InferenceRequestCancel``).
    """

    model: str
    inputs: Mapping[str, InputData] | Sequence[Mapping[str, InputData]]
    weight: float = 1.0
    version: int = -1
    outputs: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    sequence_length: int = 0
    cancel_rate: float = 0.0
    allocator: Allocator | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError("a target's weight is a positive number")
        if not 0 <= self.cancel_rate <= 1 or self.sequence_length < 0:
            raise ValueError("a cancel rate lies between 0 and 1, and a sequence has no negative length")
        if not self.input_sets:
            raise ValueError("a target needs inputs")

    @property
    def input_sets(self) -> Sequence[Mapping[str, InputData]]:
        """The sets of inputs."""
        return (self.inputs,) if isinstance(self.inputs, Mapping) else self.inputs


@dataclass(frozen=True)
class Sample:
    """What a checked response belongs to. Times are ns of CLOCK_MONOTONIC.

    ``step`` (from 0) and ``last`` are places in the sequence ``correlation_id``, for targets with sequences.
    """

    target: Target
    inputs: Mapping[str, InputData]
    correlation_id: int
    step: int
    last: bool
    intended_ns: int
    submit_ns: int
    final_ns: int


Check = Callable[[InferenceResponse, Sample], None]
"""Raises when the response is wrong. The response is closed afterwards."""


class Traffic:
    """Sends prepared requests (``TRITONSERVER_ServerInferAsync``) from native threads, without the interpreter lock.

    Closed loop: ``concurrency`` requests are always out. Open loop, with a ``rate`` (requests a second, constant, or
    ``poisson``): requests are due at times fixed beforehand, at most ``concurrency`` are out, and latency counts from
    the time a request was due, so that a server which stalls cannot hide it by holding requests up.

    It ends after ``requests`` measured ones, ``duration`` seconds of measuring, ``stop()``, when more than
    ``max_error_rate`` (0 to 1) of at least ``least_for_errors`` failed, or when nothing was sent and nothing came back
    for ``patience`` seconds: then what is out is cancelled, and a second later lost. Before it measures, ``warmup``
    seconds pass and ``warmup_requests`` are sent. With sequences each open one is ended by one request more.

    ``check`` gets the first and then every ``check_every``-th response of each thread, in ``wait()`` or ``run()``. When
    64 wait, further ones are not checked, and counted. Outputs go to CPU memory, or where a target's allocator says.

    Needs no lock of Python's; ``threads`` beyond one help when a single one cannot keep up. Raises what preparing the
    requests raises. Used once.
    """

    def __init__(
        self,
        server: Server,
        targets: Target | Sequence[Target],
        *,
        concurrency: int = 1,
        threads: int = 1,
        rate: float | None = None,
        poisson: bool = False,
        seed: int = 0,
        requests: int | None = None,
        duration: float | None = None,
        warmup: float = 0.0,
        warmup_requests: int = 0,
        max_error_rate: float | None = None,
        least_for_errors: int = 100,
        check: Check | None = None,
        check_every: int = 100,
        patience: float = 30.0,
    ) -> None:
        self.targets = (targets,) if isinstance(targets, Target) else tuple(targets)
        if not self.targets or concurrency < threads or threads < 1:
            raise ValueError("traffic needs a target and at least one request in flight for each thread")
        if concurrency > _MAX_CONCURRENCY:
            raise ValueError(f"traffic has at most {_MAX_CONCURRENCY} requests in flight, not {concurrency}")
        if (rate is not None and not 0 < rate <= _MAX_RATE) or (poisson and rate is None):
            raise ValueError(f"a rate is 0 to {_MAX_RATE:g} requests a second, more than 0; Poisson arrivals need one")
        times = (duration, patience, warmup or None)
        if any(seconds is not None and not 0 < seconds <= _MAX_SECONDS for seconds in times):
            raise ValueError(f"duration, patience and warmup are positive, and at most {_MAX_SECONDS:g} seconds")
        if (requests is not None and requests < 1) or warmup_requests < 0 or check_every < 1 or least_for_errors < 0:
            raise ValueError("requests and check_every are positive, the other counts not negative")
        if max_error_rate is not None and not 0 <= max_error_rate <= 1:
            raise ValueError(f"an error rate lies between 0 and 1, not at {max_error_rate}")
        self._server = server
        self._library = server.library
        self._native = server.library.native
        self._check = check
        self._state: Any = None
        self._users = threading.Condition()  # of the native state: it goes when nobody is within a call with it
        self._within: dict[int, int] = {}  # thread -> calls
        self._orphan: Any = None  # a native state that was closed in the midst of one, by a signal's handler
        self._tensors: list[dict[str, TensorView]] = []  # what the native requests read
        self._allocators: list[Allocator] = []
        self._validated = 0
        self._wrong = 0
        self._wrong_texts: list[str] = []
        self._final: TrafficReport | None = None
        self._started = False
        self._options = TrafficOptions(
            rate=rate or 0.0,
            max_error_rate=2.0 if max_error_rate is None else max_error_rate,
            seed=seed & 0xFFFFFFFF,
            requests=requests or 0,
            warmup_requests=warmup_requests,
            check_every=check_every if check else 0,
            least_for_errors=least_for_errors,
            duration_ns=int((duration or 0) * 1e9),
            warmup_ns=int(warmup * 1e9),
            patience_ns=int(patience * 1e9),
            poisson=poisson,
            threads=threads,
            targets=len(self.targets),
            concurrency=concurrency,
        )
        self._prepare()

    def _prepare(self) -> None:
        self._state = self._native.traffic_new(self._server.pointer, ctypes.byref(self._options))
        if not self._state:
            raise MemoryError("no memory for traffic")
        try:
            for index, target in enumerate(self.targets):
                self._add_target(index, target)
        except BaseException:
            self._dispose()
            raise
        self._server._traffics.add(self)

    def _add_target(self, index: int, target: Target) -> None:
        allocator = target.allocator if target.allocator is not None else plain_allocator(self._library)
        self._allocators.append(allocator)
        if isinstance(allocator, AllocatorHandle):
            allocator._used_by(self)
        decoupled = self._server.transaction_properties(target.model, target.version) & ModelTxnPropertyFlag.DECOUPLED
        options = TargetOptions(
            weight=target.weight,
            cancel_rate=target.cancel_rate,
            allocator=allocator.pointer,
            allocator_userp=allocator.userp,
            sequence_length=target.sequence_length,
            decoupled=bool(decoupled),
        )
        self._native.traffic_target(self._state, index, ctypes.byref(options))
        sets = [{name: view_of(data) for name, data in row.items()} for row in target.input_sets]
        self._tensors += sets
        number = 0
        for thread in range(self._options.threads):
            for _ in range(self._native.traffic_share(self._state, thread)):
                choice = number % len(sets)
                number += 1
                request = self._server.request(
                    target.model, sets[choice], outputs=target.outputs, version=target.version, **target.settings
                )
                error = self._native.traffic_slot(self._state, thread, index, request.pointer, choice)
                if error:
                    request.close()
                    raise self._library.api.take_error(error)
                request.release()  # it is a slot's now: a Python object for each would cost more than the slot

    @contextmanager
    def _using(self) -> Iterator[Any]:
        """The native state, which stays until the end of the block; None when it has gone."""
        me = get_ident()
        with self._users:
            state = self._state
            if state is not None:
                self._within[me] = self._within.get(me, 0) + 1
        try:
            yield state
        finally:
            if state is not None:
                with self._users:
                    self._within[me] -= 1
                    if not self._within[me]:
                        del self._within[me]
                    self._users.notify_all()
                    orphan = None
                    if not self._within:
                        orphan, self._orphan = self._orphan, None
                if orphan is not None:
                    self._delete(orphan)

    # Running

    def start(self) -> None:
        """Begins to send. Raises OSError when no thread can be made."""
        with self._using() as state:
            if state is None or self._started:
                raise Error("this traffic was used already")
            self._started = True
            failure = self._native.traffic_start(state)
        if failure:
            raise OSError(failure, "no thread for traffic")

    def stop(self, *, cancel: bool = False) -> None:
        """Sends no more; from any thread or a signal handler. What is out comes back, cancelled sooner."""
        with self._using() as state:
            if state is not None and self._started:
                self._native.traffic_stop(state, cancel)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits ``timeout`` seconds at most until all has come back, and checks samples meanwhile. True at the end."""
        deadline = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
        sample = NativeSample()
        while self._started:
            left = _SLICE_NS if deadline is None else max(0, min(_SLICE_NS, deadline - time.monotonic_ns()))
            with self._using() as state:
                if state is None:
                    break
                met = self._native.traffic_wait(state, left, ctypes.byref(sample))
            if met == _ENDED:
                return True
            if met == _SAMPLE:
                self._validate(sample)
                sample = NativeSample()  # the response's pointer lies in the old one, as long as a view needs it
            elif deadline is not None and time.monotonic_ns() >= deadline:
                return False
        return self._started

    def run(self) -> TrafficReport:
        """``start()``, ``wait()``, ``close()``. Interrupted (Ctrl-C), it stops first."""
        with self:
            self.start()
            self.wait()
        return self.report

    @property
    def open(self) -> bool:
        """Until ``close()``."""
        return self._state is not None

    @property
    def running(self) -> bool:
        """False before ``start()``, and when all has come back."""
        return self._started and self._state is not None and not self.report.ended

    @property
    def report(self) -> TrafficReport:
        """What came of it so far; at any time, from any thread but the closing one."""
        with self._using() as state:
            if self._final is not None:
                return self._final
            if state is None:
                raise ClosedError("this traffic was closed before it began")
            return read_report(
                self._library,
                state,
                [target.model for target in self.targets],
                self._options,
                validated=self._validated,
                wrong=self._wrong,
                wrong_texts=tuple(self._wrong_texts),
            )

    def _validate(self, found: NativeSample) -> None:
        target = self.targets[found.target]
        sample = Sample(
            target=target,
            inputs=target.input_sets[found.inputs],
            correlation_id=found.correlation,
            step=found.step,
            last=bool(found.last),
            intended_ns=found.intended_ns,
            submit_ns=found.submit_ns,
            final_ns=found.final_ns,
        )
        response = InferenceResponse(
            found.response, self._library, self._allocators[found.target], self._server, time_ns=found.final_ns
        )
        assert self._check is not None
        with response:
            self._validated += 1
            try:
                self._check(response, sample)
            except Exception as error:
                self._wrong += 1
                if len(self._wrong_texts) < _WRONG_KEPT:
                    self._wrong_texts.append(f"{target.model}: {type(error).__name__}: {error}")

    # The end

    def close(self) -> None:
        """Stops, cancels what is out, waits for it, checks what was picked, and deletes the requests.

        Requests that Triton never gave back stay, with all they use: a leak is better than memory freed under it.
        """
        if self._state is None:
            return
        if self._started:
            self.stop(cancel=True)
            self.wait()
            self._final = self.report
        self._dispose()

    def _dispose(self) -> None:
        me = get_ident()
        with self._users:
            state, self._state = self._state, None
            if state is None:  # another thread did it
                return
            while self._within.keys() - {me}:
                self._users.wait()
            if self._within:  # what a handler interrupted goes on with it
                self._orphan = state
                return
        self._delete(state)

    def _delete(self, state: Any) -> None:
        for index, target in enumerate(self.targets):
            self._tell_threads(state, index, target.model)
        if self._native.traffic_delete(state):
            _forgotten.append((self._server, self._allocators, self._tensors))
        self._tensors = []
        self._server._traffics.discard(self)

    def _tell_threads(self, state: Any, index: int, model: str) -> None:
        """Tells the server on which threads the model answered: unloading it waits for them."""
        threads = (ctypes.c_int64 * _MAX_THREADS)()
        count = self._native.traffic_threads(state, index, threads, _MAX_THREADS)
        for thread in threads[:count]:
            self._server._heard(model, thread)
        if count == _MAX_THREADS:
            self._server._loaded(model)

    def tell_threads(self) -> None:
        """For the server, before it unloads a model meanwhile."""
        with self._using() as state:
            if state is not None and self._started:
                for index, target in enumerate(self.targets):
                    self._tell_threads(state, index, target.model)

    def __enter__(self) -> Traffic:
        if self._state is None:
            raise ClosedError("this traffic is closed")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_state", None) is not None:
            if self._started:
                self._native.traffic_stop(self._state, True)
                _forgotten.append((self._server, self._allocators, self._tensors))
            warnings.warn(f"unclosed traffic: {self!r}", ResourceWarning, source=self, stacklevel=2)


_forgotten: list[object] = []


class PlainAllocator:
    """Allocates every output on the CPU and keeps no state, no record and no lock. One a process; never deleted."""

    def __init__(self, library: Library) -> None:
        native = library.native
        self.pointer = library.api.ResponseAllocatorNew(native.plain_alloc_fn, native.plain_release_fn, StartFn(0))
        self.userp = 0


_plain: dict[Library, PlainAllocator] = {}


def plain_allocator(library: Library) -> PlainAllocator:
    """The library's plain allocator. Responses may outlive whoever used it, so it stays."""
    found = _plain.get(library)
    if found is None:
        found = _plain.setdefault(library, PlainAllocator(library))
    return found


def close_all(traffics: Iterable[Traffic]) -> None:
    """Closes them, all stopped first, so that they end at the same time."""
    found = list(traffics)
    for traffic in found:
        traffic.stop(cancel=True)
    for traffic in found:
        traffic.close()
