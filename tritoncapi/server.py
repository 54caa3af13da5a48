"""Server: a Triton in this process."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ._handle import Handle
from ._library import Library, load
from ._names import c_name
from ._types import MetricFormat, ModelBatchFlag, ModelIndexFlag, ModelTxnPropertyFlag
from .allocator_base import Allocator
from .default_allocator import DefaultAllocator
from .dispatcher import dispatcher
from .errors import Error, TritonError
from .many import Batch, Responses, drop, infer_many, left_of, waited_for
from .message import take_json
from .once import OneCall
from .options import PathLike, ServerOptions
from .parameter import ParameterValue, parameter_array
from .request import InferenceRequest
from .request_content import InputData
from .response import InferenceResponse
from .roster import Roster
from .trace import Trace
from .traffic import Traffic, close_all
from .waiting import asleep, foreign_threads, wait_for

DEFAULT_STOP_TIMEOUT = 30.0  # seconds; Triton's own default
_EXIT_TIMEOUT = "Exit timeout expired"  # how Triton's text for it begins; it has no code of its own
_pools = threading.Lock()
_SETTLE = 0.1  # seconds


class StopTimeout(Error, TimeoutError):
    """The server did not stop in time. It is left as it is: what Triton still runs may use it."""


@dataclass(frozen=True)
class IndexEntry:
    """One row of the repository index."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class Server(Handle):
    """A running server (``TRITONSERVER_ServerNew``). Leaving its ``with`` block stops it and deletes it.

    ``Server(ServerOptions(...))``, or ``Server("repository", log_verbose=1)`` with ServerOptions' names as keywords.

    Triton's memory pools are one set per process: a new server finds those of an older one and warns, a deleted one
    takes them from all. Neither holds a lock: Triton 2.51 crashes now and then when one server is made while another
    is deleted. So these two calls are kept apart here; ``guarded=False`` lets them race. Nothing here helps ensembles
    of the other servers, which fail ("gave no buffer") after a deletion until another server is made.

    A model's thread puts its instance back only after it reported a load or answered a request. Triton 2.51 crashes
    when the model is unloaded in between (StopBackendThread takes the last one of no instances), as happens on a busy
    machine. So the first unload or reload after either waits, 0.1 s at most, until Triton's threads sleep; not so
    unguarded.
    """

    noun = "server"

    def __init__(
        self,
        options: ServerOptions | PathLike | None = None,
        *,
        library: Library | None = None,
        guarded: bool = True,
        **settings: Any,
    ) -> None:
        if isinstance(options, ServerOptions):
            if settings:
                raise TypeError("give either ServerOptions or their fields as keywords")
        elif options and isinstance(options, (str, os.PathLike, list, tuple)):
            options = ServerOptions(model_repository=options, **settings)
        elif options is None and "model_repository" in settings:
            options = ServerOptions(**settings)
        else:
            raise TypeError(f"a server needs a model repository: give its path or ServerOptions, not {options!r}")
        self.library = library or load()
        self.options = options
        self._api = self.library.api
        self._requests = Roster(self.library)
        self._traffics: weakref.WeakSet[Traffic] = weakref.WeakSet()
        self._default_allocator: DefaultAllocator | None = None
        self._lock = threading.Lock()
        self._unheard: set[str] = set()  # models that were loaded and have not answered
        self._heard_from: dict[str, set[int]] = {}  # model -> kernel's ids of threads that it answered on
        self._guard: AbstractContextManager[object] = _pools if guarded else nullcontext()
        with options.build(self.library) as pointer, self._guard:
            made = self._api.ServerNew(pointer)
        super().__init__(made, self.library)
        self._one_call = OneCall(self)

    # State

    @property
    def live(self) -> bool:
        """``TRITONSERVER_ServerIsLive``."""
        return bool(self._api.ServerIsLive(self.pointer))

    @property
    def ready(self) -> bool:
        """With strict readiness only when every model is too (``TRITONSERVER_ServerIsReady``)."""
        return bool(self._api.ServerIsReady(self.pointer))

    @property
    def metadata(self) -> dict[str, Any]:
        """``name``, ``version``, ``extensions`` (``TRITONSERVER_ServerMetadata``)."""
        return self._object(self._api.ServerMetadata(self.pointer))

    def metrics(self) -> str:
        """The metrics in Prometheus' text form (``TRITONSERVER_ServerMetrics``, ``...MetricsFormatted``)."""
        metrics = self._api.ServerMetrics(self.pointer)
        try:
            base, size = self._api.MetricsFormatted(metrics, MetricFormat.PROMETHEUS)
            return ctypes.string_at(base, size).decode()
        finally:
            self._api.MetricsDelete(metrics)

    def index(self, ready_only: bool = False) -> list[IndexEntry]:
        """The models of all repositories with their state (``TRITONSERVER_ServerModelIndex``)."""
        rows = self._json(self._api.ServerModelIndex(self.pointer, ModelIndexFlag.READY if ready_only else 0))
        return [IndexEntry(**{key: str(value) for key, value in row.items()}) for row in rows]

    # Models

    def model_ready(self, model: str, version: int = -1) -> bool:
        """``TRITONSERVER_ServerModelIsReady``."""
        return bool(self._api.ServerModelIsReady(self.pointer, c_name(model, "a model's"), version))

    def model_metadata(self, model: str, version: int = -1) -> dict[str, Any]:
        """Inputs, outputs, versions, platform (``TRITONSERVER_ServerModelMetadata``)."""
        return self._object(self._api.ServerModelMetadata(self.pointer, c_name(model, "a model's"), version))

    def model_config(self, model: str, version: int = -1) -> dict[str, Any]:
        """The configuration in effect (``TRITONSERVER_ServerModelConfig``)."""
        return self._object(self._api.ServerModelConfig(self.pointer, c_name(model, "a model's"), version, 1))

    def model_statistics(self, model: str = "", version: int = -1) -> list[dict[str, Any]]:
        """Statistics a model version, of all models by default (``TRITONSERVER_ServerModelStatistics``).

        They lag behind the responses a little. Durations are ns, memory usage bytes.
        """
        stats = self._json(self._api.ServerModelStatistics(self.pointer, c_name(model, "a model's"), version))
        found: list[dict[str, Any]] = stats["model_stats"]
        return found

    def batch_properties(self, model: str, version: int = -1) -> ModelBatchFlag:
        """Whether the first dimension is a batch (``TRITONSERVER_ServerModelBatchProperties``)."""
        flags, _ = self._api.ServerModelBatchProperties(self.pointer, c_name(model, "a model's"), version)
        return ModelBatchFlag(flags)

    def transaction_properties(self, model: str, version: int = -1) -> ModelTxnPropertyFlag:
        """One response a request, or decoupled (``TRITONSERVER_ServerModelTransactionProperties``)."""
        flags, _ = self._api.ServerModelTransactionProperties(self.pointer, c_name(model, "a model's"), version)
        return ModelTxnPropertyFlag(flags)

    def load(self, model: str, parameters: Mapping[str, ParameterValue] | None = None) -> None:
        """Loads or reloads a model and waits until it is ready. Raises what Triton says of it.

        ``parameters``: ``config`` (a JSON configuration), ``file:<path>`` (bytes).
        ``TRITONSERVER_ServerLoadModel``, ``...LoadModelWithParameters``.
        """
        self._settle(model)
        if not parameters:
            self._api.ServerLoadModel(self.pointer, c_name(model, "a model's"))
        else:
            with parameter_array(self.library, parameters) as (array, count):
                self._api.ServerLoadModelWithParameters(self.pointer, c_name(model, "a model's"), array, count)
        self._loaded(model)

    def unload(self, model: str, *, dependents: bool = False, timeout: float | None = None) -> None:
        """Starts to unload a model (``TRITONSERVER_ServerUnloadModel``, ``...AndDependents``).

        Unloading goes on after Triton's call; with ``timeout`` this waits for its end and raises StopTimeout.
        """
        self._settle(None if dependents else model)
        if dependents:
            self._api.ServerUnloadModelAndDependents(self.pointer, c_name(model, "a model's"))
        else:
            self._api.ServerUnloadModel(self.pointer, c_name(model, "a model's"))
        if timeout is not None and not self.wait_unloaded([model], timeout):
            raise StopTimeout(f"model {model!r} is not unloaded after {timeout:g} s")

    def wait_unloaded(self, models: Iterable[str] | None = None, timeout: float = DEFAULT_STOP_TIMEOUT) -> bool:
        """Waits until none of the models (default: of all) is in the process any more; False when time is over.

        Triton's index leaves out a model whose folder is in no repository (any more): that one is not waited for.
        """
        wanted = None if models is None else set(models)

        def gone() -> bool:
            busy = ("READY", "UNLOADING", "LOADING")
            return not any(entry.state in busy for entry in self.index() if wanted is None or entry.name in wanted)

        return wait_for(gone, timeout)

    def register_repository(self, path: PathLike, name_mapping: Mapping[str, str] | None = None) -> None:
        """Adds a repository, ``name_mapping`` from subdirectory to model name."""
        with parameter_array(self.library, name_mapping or {}) as (array, count):
            self._api.ServerRegisterModelRepository(self.pointer, os.fsencode(path), array, count)

    def unregister_repository(self, path: PathLike) -> None:
        """``TRITONSERVER_ServerUnregisterModelRepository``."""
        self._api.ServerUnregisterModelRepository(self.pointer, os.fsencode(path))

    def poll_repository(self) -> None:
        """Looks for changes; only in the control mode POLL (``TRITONSERVER_ServerPollModelRepository``)."""
        self._api.ServerPollModelRepository(self.pointer)

    # Inference

    @property
    def default_allocator(self) -> DefaultAllocator:
        """The allocator of requests that name none: everything on the CPU, nothing on record."""
        if self._default_allocator is not None:  # asked for each request
            return self._default_allocator
        with self._lock:
            if self._default_allocator is None:
                self.pointer  # noqa: B018 - raises when it is closed, since nobody would close the allocator
                self._default_allocator = DefaultAllocator(self.library, self._requests.clear_aside)
            return self._default_allocator

    def request(
        self,
        model: str,
        inputs: Mapping[str, InputData] | None = None,
        *,
        outputs: Iterable[str] = (),
        version: int = -1,
        parameters: Mapping[str, ParameterValue] | None = None,
        **settings: Any,
    ) -> InferenceRequest:
        """A request with its inputs set; ``settings`` are its attributes: id, flags, correlation_id, priority, ..."""
        inputs = {} if inputs is None else inputs
        if not isinstance(inputs, Mapping):
            raise TypeError(f"inputs are a mapping from name to tensor, not {type(inputs).__name__}")
        request = InferenceRequest(self, model, version)
        try:
            for name, data in inputs.items():
                request.set_input(name, data)
            for name in outputs:
                request.add_output(name)
            for name, value in (parameters or {}).items():
                request.set_parameter(name, value)
            for name, value in settings.items():
                if not isinstance(getattr(InferenceRequest, name, None), property):
                    raise TypeError(f"an inference request has no setting {name!r}")
                setattr(request, name, value)
        except BaseException:
            request.close()
            raise
        return request

    def infer(
        self,
        model: str,
        inputs: Mapping[str, InputData],
        *,
        version: int = -1,
        timeout: float | None = None,
        allocator: Allocator | None = None,
        trace: Trace | None = None,
        **settings: Any,
    ) -> InferenceResponse:
        """Makes a request, runs it, deletes it; see ``InferenceRequest.infer``. The response is the caller's.

        Quickest for a dict of contiguous NumPy arrays of plain datatypes, or TensorViews, without further settings.
        """
        if trace is None and not settings:
            response = self._one_call.infer(self, model, inputs, version, timeout, allocator)
            if response is not None:
                return response
        with self.request(model, inputs, version=version, **settings) as request:
            return request.infer(timeout=timeout, allocator=allocator, trace=trace)

    def infer_many(
        self,
        requests: Sequence[InferenceRequest],
        *,
        timeout: float | None = None,
        allocator: Allocator | None = None,
    ) -> Responses:
        """Submits prepared requests and collects their responses, without a word of Python in between.

        Each must have one response: Error for a decoupled model that sends none or several. Error responses are not
        raised. InferTimeout when some are not there after ``timeout`` seconds: those requests are still in flight.
        When Triton refuses one (``TRITONSERVER_ServerInferAsync``) that is raised, and the others' answers are dropped;
        those that take longer are still in flight. InFlightError when another thread sends one of them.
        """
        # The same ones once more are sent from here, in few steps: no model works meanwhile, and those of Triton's
        # threads that fall asleep must be woken, one after the other.
        batch: Batch | None = getattr(requests[0], "_batch", None) if type(requests) is list and requests else None
        if (
            batch is None
            or not batch.quick
            or timeout is not None
            or batch.chosen is not (self._default_allocator if allocator is None else allocator)
            or batch.requests != requests
            or not batch.idle
            or batch.chosen._pointer is None  # type: ignore[attr-defined]  # a quick one is a Handle
            or self._pointer is None
        ):
            return infer_many(self, list(requests), timeout, allocator)
        try:
            sending = batch.idle.pop()
        except IndexError:  # another thread's now
            return infer_many(self, list(requests), timeout, allocator)
        responses: Responses | None = None
        try:
            found = batch.run(sending.at)
            if found is None:
                return Responses(self, batch, sending)
            waiting = left_of(self, batch, sending, found)
            if waiting is not None:
                responses = Responses(self, batch, sending)
                return waited_for(responses, waiting, None, 0.0)
        except BaseException:  # Ctrl-C too
            batch.let_go(sending.at)
            drop(responses, batch, sending)
            raise
        batch.rest(sending)
        return infer_many(self, batch.requests, timeout, allocator)

    def infer_async(
        self,
        model: str,
        inputs: Mapping[str, InputData],
        *,
        allocator: Allocator | None = None,
        trace: Trace | None = None,
        **settings: Any,
    ) -> Future[InferenceResponse]:
        """The same with a future; see ``InferenceRequest.infer_async``."""
        request = self.request(model, inputs, **settings)
        try:
            future = request.infer_async(allocator=allocator, trace=trace)
        except BaseException:
            request.close()
            raise
        future.add_done_callback(lambda _: request.close())
        return future

    def stream(
        self,
        model: str,
        inputs: Mapping[str, InputData],
        *,
        timeout: float | None = None,
        allocator: Allocator | None = None,
        trace: Trace | None = None,
        **settings: Any,
    ) -> Iterator[InferenceResponse]:
        """The responses of a decoupled model; see ``InferenceRequest.stream``."""
        with self.request(model, inputs, **settings) as request:
            yield from request.stream(timeout=timeout, allocator=allocator, trace=trace)

    # The end

    def stop(self, timeout: float = DEFAULT_STOP_TIMEOUT) -> None:
        """Unloads all models and stops (``TRITONSERVER_ServerStop``); raises StopTimeout, or what Triton says.

        Triton's own stop polls once a second. Unloading first, and waiting for the index to say so, spares that second.
        """
        deadline = time.monotonic() + timeout
        close_all(self._traffics)
        self._one_call.close(timeout)
        for request in self._requests.all():
            request.close()
        unanswered = dispatcher(self.library).wait(self, timeout)
        self._unload_all(max(0.0, deadline - time.monotonic()))
        self._settle()  # for what could not be unloaded before
        held_up = self._held_up(unanswered)  # now: a server that is stopping has no index
        left = max(1, round(deadline - time.monotonic()))
        if self.library.api_version >= (1, 32):
            self._api.ServerSetExitTimeout(self.pointer, left)
        # On a thread of its own: a stop that hangs must not take the caller with it.
        finished = threading.Event()
        failure: list[BaseException] = []

        def stop() -> None:
            try:
                self._api.ServerStop(self.pointer)
            except BaseException as error:
                failure.append(error)
            finally:
                finished.set()

        stopper = threading.Thread(target=stop, name="tritoncapi-stop", daemon=True)
        stopper.start()
        if not finished.wait(left + 2):
            raise StopTimeout(f"the server did not stop within {timeout:g} s: {held_up}")
        stopper.join()
        if failure:
            if isinstance(failure[0], TritonError) and failure[0].message.startswith(_EXIT_TIMEOUT):
                raise StopTimeout(f"the server did not stop within {timeout:g} s: {held_up}") from failure[0]
            raise failure[0]

    def _held_up(self, unanswered: int) -> str:
        """What keeps the server from stopping."""
        try:
            rows = [entry for entry in self.index() if entry.state not in ("", "UNAVAILABLE")]
        except TritonError:  # it was stopped before
            rows = []
        what = [f"{row.name} is {row.state}" for row in rows]
        if unanswered:
            what.append(f"{unanswered} request(s) never came back")
        held = self._default_allocator.counts.live if self._default_allocator is not None else 0
        if held:
            what.append(f"{held} output buffer(s) are held: close the responses, and drop views of them, first")
        return "; ".join(what) or "no model is loaded"

    def _loaded(self, model: str) -> None:
        """It is not known on which thread the model will answer."""
        with self._lock:
            self._unheard.add(model)

    def _heard(self, model: str, thread: int) -> None:
        """A model answered, on this thread."""
        if thread:
            with self._lock:
                self._unheard.discard(model)
                self._heard_from.setdefault(model, set()).add(thread)

    def _settle(self, model: str | None = None) -> None:
        """Waits for the threads on which the model (default: any) answered; for all if it was only loaded."""
        if self._guard is not _pools:
            return
        for traffic in list(self._traffics):
            traffic.tell_threads()
        for request in self._requests.all():
            execution = request._execution
            if execution is not None:
                self._heard(request.model, execution.thread)
            for thread in request._heard():
                self._heard(request.model, thread)
        with self._lock:
            models = {*self._unheard, *self._heard_from} if model is None else {model}
            unheard = self._unheard & models
            self._unheard -= unheard
            threads = set().union(*(self._heard_from.pop(name, ()) for name in models))
        if unheard:
            wait_for(lambda: asleep(foreign_threads()), _SETTLE)
        elif threads:
            wait_for(lambda: asleep(threads), _SETTLE)

    def _unload_all(self, timeout: float) -> None:
        try:
            names = {entry.name for entry in self.index(ready_only=True)}
            names |= {row["name"] for row in self.model_statistics()}  # has models too that lie in no repository
            for name in names:
                self.unload(name)
        except TritonError:  # the control mode may not allow it; stopping then takes its second
            return
        self.wait_unloaded(timeout=timeout)

    def close(self, timeout: float | None = None) -> None:
        """Stops and deletes the server (``TRITONSERVER_ServerDelete``). A server that will not stop is not deleted.

        A response that is not closed, or a view of its outputs that is not dropped, keeps its model: no server stops
        before that.
        """
        if self.closed:
            return
        allocator = self._default_allocator
        try:
            self.stop(DEFAULT_STOP_TIMEOUT if timeout is None else timeout)
        except BaseException:
            self.release()
            if allocator is not None:  # it goes the way of the server: what Triton still runs may use it
                allocator.release()
            raise
        super().close()
        if allocator is not None:
            allocator.close()

    def _dispose(self, pointer: Any) -> None:
        with self._guard:
            self._api.ServerDelete(pointer)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Error:
            if value is None:  # else what went wrong first is what matters
                raise

    def _json(self, message: Any) -> Any:
        return take_json(self.library, message)

    def _object(self, message: Any) -> dict[str, Any]:
        value = self._json(message)
        assert isinstance(value, dict)
        return value
