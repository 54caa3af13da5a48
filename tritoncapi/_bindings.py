"""The 172 functions of ``tritonserver.h`` (C API 1.34), one row each.

A row gives the name without its prefix, the parameters, and the first API version known to have the function. ctypes'
parameter flags turn out-parameters into results: ``ServerIsLive(server)`` returns a bool, a function with several
out-parameters a tuple. Three kinds of rows:

- ``status``: returns ``TRITONSERVER_Error*``, which becomes an exception; the interpreter lock is free meanwhile.
- ``quick``: likewise, but keeps the interpreter lock. Only for calls that neither block nor wait for a Triton thread:
  handing the lock over costs more than they do.
- ``plain``: returns something else, and keeps the lock too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

from . import _types as T
from .errors import MissingFunctionError, triton_error

PREFIX = "TRITONSERVER_"
API_MAJOR, API_MINOR = 1, 34
OLDEST_API = (1, 17)

enum = c_int


@dataclass(frozen=True)
class Out:
    """An out-parameter: the caller does not pass it, it is part of the result."""

    type: Any


@dataclass(frozen=True)
class Row:
    """One function: how to call it, and since when it exists."""

    name: str
    restype: Any
    parameters: tuple[Any, ...]
    since: tuple[int, int] = OLDEST_API
    checked: bool = True
    keeps_lock: bool = False

    @property
    def argtypes(self) -> tuple[Any, ...]:
        """The C parameter types, out-parameters as pointers."""
        return tuple(POINTER(p.type) if isinstance(p, Out) else p for p in self.parameters)


ROWS: dict[str, Row] = {}


def out(type_: Any) -> Out:
    """Marks an out-parameter of this type."""
    return Out(type_)


def status(name: str, *parameters: Any, since: tuple[int, int] = OLDEST_API) -> None:
    """A function that returns an error, called without the interpreter lock."""
    ROWS[name] = Row(name, T.Error_p, parameters, since)


def quick(name: str, *parameters: Any, since: tuple[int, int] = OLDEST_API) -> None:
    """A function that returns an error and never blocks."""
    ROWS[name] = Row(name, T.Error_p, parameters, since, keeps_lock=True)


def plain(name: str, restype: Any, *parameters: Any, since: tuple[int, int] = OLDEST_API) -> None:
    """A function that returns a value, not an error that is the caller's."""
    ROWS[name] = Row(name, restype, parameters, since, checked=False, keeps_lock=True)


# fmt: off
# Versions, names of enum values
quick("ApiVersion", out(c_uint32), out(c_uint32))
plain("DataTypeString", c_char_p, enum)
plain("StringToDataType", enum, c_char_p)
plain("DataTypeByteSize", c_uint32, enum)
plain("MemoryTypeString", c_char_p, enum)
plain("ParameterTypeString", c_char_p, enum)

# Parameters
plain("ParameterNew", T.Parameter_p, c_char_p, enum, c_void_p)
plain("ParameterBytesNew", T.Parameter_p, c_char_p, c_void_p, c_uint64)
plain("ParameterDelete", None, T.Parameter_p)
plain("InstanceGroupKindString", c_char_p, enum)

# Log
plain("LogIsEnabled", c_bool, enum)
status("LogMessage", enum, c_char_p, c_int, c_char_p)

# Errors
plain("ErrorNew", T.Error_p, enum, c_char_p)
plain("ErrorDelete", None, T.Error_p)
plain("ErrorCode", enum, T.Error_p)
plain("ErrorCodeString", c_char_p, T.Error_p)
plain("ErrorMessage", c_char_p, T.Error_p)

# Response allocator
quick("ResponseAllocatorNew", out(T.ResponseAllocator_p), T.AllocFn, T.ReleaseFn, T.StartFn)
quick("ResponseAllocatorSetBufferAttributesFunction", T.ResponseAllocator_p, T.BufferAttributesFn)
quick("ResponseAllocatorSetQueryFunction", T.ResponseAllocator_p, T.QueryFn)
quick("ResponseAllocatorDelete", T.ResponseAllocator_p)

# Messages and metrics in text form
quick("MessageNewFromSerializedJson", out(T.Message_p), c_char_p, c_size_t)
quick("MessageDelete", T.Message_p)
quick("MessageSerializeToJson", T.Message_p, out(c_void_p), out(c_size_t))
status("MetricsDelete", T.Metrics_p)
quick("MetricsFormatted", T.Metrics_p, enum, out(c_void_p), out(c_size_t))

# Traces
plain("InferenceTraceLevelString", c_char_p, enum)
plain("InferenceTraceActivityString", c_char_p, enum)
status("InferenceTraceNew", out(T.InferenceTrace_p), enum, c_uint64, T.TraceActivityFn, T.TraceReleaseFn,
       c_void_p)
status("InferenceTraceTensorNew", out(T.InferenceTrace_p), enum, c_uint64, T.TraceActivityFn,
       T.TraceTensorActivityFn, T.TraceReleaseFn, c_void_p)
status("InferenceTraceReportActivity", T.InferenceTrace_p, c_uint64, c_char_p, since=(1, 34))
status("InferenceTraceDelete", T.InferenceTrace_p)
quick("InferenceTraceId", T.InferenceTrace_p, out(c_uint64))
quick("InferenceTraceParentId", T.InferenceTrace_p, out(c_uint64))
quick("InferenceTraceModelName", T.InferenceTrace_p, out(c_char_p))
quick("InferenceTraceModelVersion", T.InferenceTrace_p, out(c_int64))
quick("InferenceTraceRequestId", T.InferenceTrace_p, out(c_char_p), since=(1, 22))
status("InferenceTraceSpawnChildTrace", T.InferenceTrace_p, out(T.InferenceTrace_p), since=(1, 25))
quick("InferenceTraceSetContext", T.InferenceTrace_p, c_char_p, since=(1, 29))
quick("InferenceTraceContext", T.InferenceTrace_p, out(c_char_p), since=(1, 29))

# Requests
status("InferenceRequestNew", out(T.InferenceRequest_p), T.Server_p, c_char_p, c_int64)
status("InferenceRequestDelete", T.InferenceRequest_p)
quick("InferenceRequestId", T.InferenceRequest_p, out(c_char_p))
quick("InferenceRequestSetId", T.InferenceRequest_p, c_char_p)
quick("InferenceRequestFlags", T.InferenceRequest_p, out(c_uint32))
quick("InferenceRequestSetFlags", T.InferenceRequest_p, c_uint32)
quick("InferenceRequestCorrelationId", T.InferenceRequest_p, out(c_uint64))
quick("InferenceRequestCorrelationIdString", T.InferenceRequest_p, out(c_char_p))
quick("InferenceRequestSetCorrelationId", T.InferenceRequest_p, c_uint64)
quick("InferenceRequestSetCorrelationIdString", T.InferenceRequest_p, c_char_p)
status("InferenceRequestCancel", T.InferenceRequest_p, since=(1, 25))
quick("InferenceRequestIsCancelled", T.InferenceRequest_p, out(c_bool), since=(1, 25))
quick("InferenceRequestPriority", T.InferenceRequest_p, out(c_uint32))
quick("InferenceRequestPriorityUInt64", T.InferenceRequest_p, out(c_uint64), since=(1, 23))
quick("InferenceRequestSetPriority", T.InferenceRequest_p, c_uint32)
quick("InferenceRequestSetPriorityUInt64", T.InferenceRequest_p, c_uint64, since=(1, 23))
quick("InferenceRequestTimeoutMicroseconds", T.InferenceRequest_p, out(c_uint64))
quick("InferenceRequestSetTimeoutMicroseconds", T.InferenceRequest_p, c_uint64)
quick("InferenceRequestAddInput", T.InferenceRequest_p, c_char_p, enum, POINTER(c_int64), c_uint64)
quick("InferenceRequestAddRawInput", T.InferenceRequest_p, c_char_p)
quick("InferenceRequestRemoveInput", T.InferenceRequest_p, c_char_p)
quick("InferenceRequestRemoveAllInputs", T.InferenceRequest_p)
quick("InferenceRequestAppendInputData", T.InferenceRequest_p, c_char_p, c_void_p, c_size_t, enum, c_int64)
quick("InferenceRequestAppendInputDataWithHostPolicy", T.InferenceRequest_p, c_char_p, c_void_p, c_size_t,
      enum, c_int64, c_char_p)
quick("InferenceRequestAppendInputDataWithBufferAttributes", T.InferenceRequest_p, c_char_p, c_void_p,
      T.BufferAttributes_p)
quick("InferenceRequestRemoveAllInputData", T.InferenceRequest_p, c_char_p)
quick("InferenceRequestAddRequestedOutput", T.InferenceRequest_p, c_char_p)
quick("InferenceRequestRemoveRequestedOutput", T.InferenceRequest_p, c_char_p)
quick("InferenceRequestRemoveAllRequestedOutputs", T.InferenceRequest_p)
quick("InferenceRequestSetReleaseCallback", T.InferenceRequest_p, T.RequestReleaseFn, c_void_p)
quick("InferenceRequestSetResponseCallback", T.InferenceRequest_p, T.ResponseAllocator_p, c_void_p,
      T.ResponseCompleteFn, c_void_p)
quick("InferenceRequestSetStringParameter", T.InferenceRequest_p, c_char_p, c_char_p, since=(1, 22))
quick("InferenceRequestSetIntParameter", T.InferenceRequest_p, c_char_p, c_int64, since=(1, 22))
quick("InferenceRequestSetBoolParameter", T.InferenceRequest_p, c_char_p, c_bool, since=(1, 22))
quick("InferenceRequestSetDoubleParameter", T.InferenceRequest_p, c_char_p, c_double, since=(1, 29))

# Responses
status("InferenceResponseDelete", T.InferenceResponse_p)
# The response owns this error: it must not be deleted, so it is no status.
plain("InferenceResponseError", T.Error_p, T.InferenceResponse_p)
quick("InferenceResponseModel", T.InferenceResponse_p, out(c_char_p), out(c_int64))
quick("InferenceResponseId", T.InferenceResponse_p, out(c_char_p))
quick("InferenceResponseParameterCount", T.InferenceResponse_p, out(c_uint32))
quick("InferenceResponseParameter", T.InferenceResponse_p, c_uint32, out(c_char_p), out(enum), out(c_void_p))
quick("InferenceResponseOutputCount", T.InferenceResponse_p, out(c_uint32))
quick("InferenceResponseOutput", T.InferenceResponse_p, c_uint32, out(c_char_p), out(enum),
      out(POINTER(c_int64)), out(c_uint64), out(c_void_p), out(c_size_t), out(enum), out(c_int64),
      out(c_void_p))
quick("InferenceResponseOutputClassificationLabel", T.InferenceResponse_p, c_uint32, c_size_t, out(c_char_p))

# Buffer attributes
quick("BufferAttributesNew", out(T.BufferAttributes_p))
quick("BufferAttributesDelete", T.BufferAttributes_p)
quick("BufferAttributesSetMemoryTypeId", T.BufferAttributes_p, c_int64)
quick("BufferAttributesSetMemoryType", T.BufferAttributes_p, enum)
quick("BufferAttributesSetCudaIpcHandle", T.BufferAttributes_p, c_void_p)
quick("BufferAttributesSetByteSize", T.BufferAttributes_p, c_size_t)
quick("BufferAttributesMemoryTypeId", T.BufferAttributes_p, out(c_int64))
quick("BufferAttributesMemoryType", T.BufferAttributes_p, out(enum))
quick("BufferAttributesCudaIpcHandle", T.BufferAttributes_p, out(c_void_p))
quick("BufferAttributesByteSize", T.BufferAttributes_p, out(c_size_t))

# Server options
quick("ServerOptionsNew", out(T.ServerOptions_p))
quick("ServerOptionsDelete", T.ServerOptions_p)
quick("ServerOptionsSetServerId", T.ServerOptions_p, c_char_p)
quick("ServerOptionsSetModelRepositoryPath", T.ServerOptions_p, c_char_p)
quick("ServerOptionsSetModelControlMode", T.ServerOptions_p, enum)
quick("ServerOptionsSetStartupModel", T.ServerOptions_p, c_char_p)
quick("ServerOptionsSetStrictModelConfig", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetModelConfigName", T.ServerOptions_p, c_char_p, since=(1, 32))
quick("ServerOptionsSetRateLimiterMode", T.ServerOptions_p, enum)
quick("ServerOptionsAddRateLimiterResource", T.ServerOptions_p, c_char_p, c_size_t, c_int)
quick("ServerOptionsSetPinnedMemoryPoolByteSize", T.ServerOptions_p, c_uint64)
quick("ServerOptionsSetCudaMemoryPoolByteSize", T.ServerOptions_p, c_int, c_uint64)
quick("ServerOptionsSetCudaVirtualAddressSize", T.ServerOptions_p, c_int, c_size_t, since=(1, 28))
quick("ServerOptionsSetResponseCacheByteSize", T.ServerOptions_p, c_uint64)
quick("ServerOptionsSetCacheConfig", T.ServerOptions_p, c_char_p, c_char_p, since=(1, 22))
quick("ServerOptionsSetCacheDirectory", T.ServerOptions_p, c_char_p, since=(1, 22))
quick("ServerOptionsSetMinSupportedComputeCapability", T.ServerOptions_p, c_double)
quick("ServerOptionsSetExitOnError", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetStrictReadiness", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetExitTimeout", T.ServerOptions_p, c_uint)
quick("ServerOptionsSetBufferManagerThreadCount", T.ServerOptions_p, c_uint)
quick("ServerOptionsSetModelLoadThreadCount", T.ServerOptions_p, c_uint)
quick("ServerOptionsSetModelLoadRetryCount", T.ServerOptions_p, c_uint, since=(1, 28))
quick("ServerOptionsSetModelNamespacing", T.ServerOptions_p, c_bool, since=(1, 22))
quick("ServerOptionsSetEnablePeerAccess", T.ServerOptions_p, c_bool, since=(1, 32))
quick("ServerOptionsSetLogFile", T.ServerOptions_p, c_char_p)
quick("ServerOptionsSetLogInfo", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetLogWarn", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetLogError", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetLogFormat", T.ServerOptions_p, enum)
quick("ServerOptionsSetLogVerbose", T.ServerOptions_p, c_int)
quick("ServerOptionsSetMetrics", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetGpuMetrics", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetCpuMetrics", T.ServerOptions_p, c_bool)
quick("ServerOptionsSetMetricsInterval", T.ServerOptions_p, c_uint64)
quick("ServerOptionsSetBackendDirectory", T.ServerOptions_p, c_char_p)
quick("ServerOptionsSetRepoAgentDirectory", T.ServerOptions_p, c_char_p)
quick("ServerOptionsSetModelLoadDeviceLimit", T.ServerOptions_p, enum, c_int, c_double)
quick("ServerOptionsSetBackendConfig", T.ServerOptions_p, c_char_p, c_char_p, c_char_p)
quick("ServerOptionsSetHostPolicy", T.ServerOptions_p, c_char_p, c_char_p, c_char_p)
quick("ServerOptionsSetMetricsConfig", T.ServerOptions_p, c_char_p, c_char_p, c_char_p, since=(1, 22))

# Servers
status("ServerNew", out(T.Server_p), T.ServerOptions_p)
status("ServerDelete", T.Server_p)
status("ServerStop", T.Server_p)
status("ServerSetExitTimeout", T.Server_p, c_uint, since=(1, 32))
status("ServerRegisterModelRepository", T.Server_p, c_char_p, POINTER(T.Parameter_p), c_uint32)
status("ServerUnregisterModelRepository", T.Server_p, c_char_p)
status("ServerPollModelRepository", T.Server_p)
status("ServerIsLive", T.Server_p, out(c_bool))
status("ServerIsReady", T.Server_p, out(c_bool))
status("ServerModelIsReady", T.Server_p, c_char_p, c_int64, out(c_bool))
status("ServerModelBatchProperties", T.Server_p, c_char_p, c_int64, out(c_uint32), out(c_void_p))
status("ServerModelTransactionProperties", T.Server_p, c_char_p, c_int64, out(c_uint32), out(c_void_p))
status("ServerMetadata", T.Server_p, out(T.Message_p))
status("ServerModelMetadata", T.Server_p, c_char_p, c_int64, out(T.Message_p))
status("ServerModelStatistics", T.Server_p, c_char_p, c_int64, out(T.Message_p))
status("ServerModelConfig", T.Server_p, c_char_p, c_int64, c_uint32, out(T.Message_p))
status("ServerModelIndex", T.Server_p, c_uint32, out(T.Message_p))
status("ServerLoadModel", T.Server_p, c_char_p)
status("ServerLoadModelWithParameters", T.Server_p, c_char_p, POINTER(T.Parameter_p), c_uint64)
status("ServerUnloadModel", T.Server_p, c_char_p)
status("ServerUnloadModelAndDependents", T.Server_p, c_char_p)
status("ServerMetrics", T.Server_p, out(T.Metrics_p))
status("ServerInferAsync", T.Server_p, T.InferenceRequest_p, T.InferenceTrace_p)

# Custom metrics
status("MetricFamilyNew", out(T.MetricFamily_p), enum, c_char_p, c_char_p)
status("MetricFamilyDelete", T.MetricFamily_p)
quick("GetMetricFamilyKind", T.MetricFamily_p, out(enum), since=(1, 34))
quick("MetricArgsNew", out(T.MetricArgs_p), since=(1, 34))
quick("MetricArgsSetHistogram", T.MetricArgs_p, POINTER(c_double), c_uint64, since=(1, 34))
quick("MetricArgsDelete", T.MetricArgs_p, since=(1, 34))
status("MetricNew", out(T.Metric_p), T.MetricFamily_p, POINTER(T.Parameter_p), c_uint64)
status("MetricNewWithArgs", out(T.Metric_p), T.MetricFamily_p, POINTER(T.Parameter_p), c_uint64,
       T.MetricArgs_p, since=(1, 34))
status("MetricDelete", T.Metric_p)
status("MetricValue", T.Metric_p, out(c_double))
status("MetricIncrement", T.Metric_p, c_double)
status("MetricSet", T.Metric_p, c_double)
status("MetricObserve", T.Metric_p, c_double, since=(1, 34))
quick("GetMetricKind", T.Metric_p, out(enum))

# fmt: on


class Functions:
    """The functions of one loaded library as attributes. A function that it lacks raises when it is called."""

    def __init__(self, dll: ctypes.CDLL) -> None:
        self.missing: list[str] = []
        for row in ROWS.values():
            setattr(self, row.name, self._bind(dll, row))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"{PREFIX}{name} is no function of C API {API_MAJOR}.{API_MINOR}")

    def _bind(self, dll: ctypes.CDLL, row: Row) -> Callable[..., Any]:
        symbol = PREFIX + row.name
        prototype = (ctypes.PYFUNCTYPE if row.keeps_lock else ctypes.CFUNCTYPE)(row.restype, *row.argtypes)
        flags = tuple((2 if isinstance(p, Out) else 1,) for p in row.parameters)
        try:
            function = prototype((symbol, dll), flags)
        except AttributeError:
            self.missing.append(row.name)
            return _absent(row)
        if row.checked:
            function.errcheck = self._check(row.name)
        bound: Callable[..., Any] = function
        return bound

    def _check(self, name: str) -> Any:
        def check(error: Any, _function: Any, arguments: tuple[Any, ...]) -> Any:
            if error:
                raise self.take_error(error, name)
            return arguments  # tells ctypes to go on with the out-parameters

        return check

    def take_error(self, error: Any, call: str = "") -> Exception:
        """Turns an error that is ours into an exception and deletes it (``TRITONSERVER_ErrorDelete``)."""
        try:
            return self.read_error(error, call)
        finally:
            self.ErrorDelete(error)

    def read_error(self, error: Any, call: str = "") -> Exception:
        """The exception for an error that somebody else owns (``TRITONSERVER_ErrorCode``, ``...ErrorMessage``)."""
        message = (self.ErrorMessage(error) or b"").decode(errors="replace")
        return triton_error(self.ErrorCode(error), message, call)


def _absent(row: Row) -> Callable[..., Any]:
    def absent(*_arguments: Any) -> Any:
        major, minor = row.since
        raise MissingFunctionError(
            f"{PREFIX}{row.name} is not in the loaded libtritonserver: it needs C API {major}.{minor} or newer"
        )

    return absent
