"""Enums, opaque structs and callback types of ``tritonserver.h`` (C API 1.34).

Every opaque struct gets a pointer class of its own, so that ctypes refuses a response where a request is due.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag


class DataType(IntEnum):
    """``TRITONSERVER_DataType``; the names are those of ``TRITONSERVER_DataTypeString``."""

    INVALID = 0
    BOOL = 1
    UINT8 = 2
    UINT16 = 3
    UINT32 = 4
    UINT64 = 5
    INT8 = 6
    INT16 = 7
    INT32 = 8
    INT64 = 9
    FP16 = 10
    FP32 = 11
    FP64 = 12
    BYTES = 13
    BF16 = 14


class MemoryType(IntEnum):
    """``TRITONSERVER_MemoryType``."""

    CPU = 0
    CPU_PINNED = 1
    GPU = 2


class ParameterType(IntEnum):
    """``TRITONSERVER_ParameterType``."""

    STRING = 0
    INT = 1
    BOOL = 2
    DOUBLE = 3
    BYTES = 4


class InstanceGroupKind(IntEnum):
    """``TRITONSERVER_InstanceGroupKind``."""

    AUTO = 0
    CPU = 1
    GPU = 2
    MODEL = 3


class LogLevel(IntEnum):
    """``TRITONSERVER_LogLevel``."""

    INFO = 0
    WARN = 1
    ERROR = 2
    VERBOSE = 3


class LogFormat(IntEnum):
    """``TRITONSERVER_LogFormat``."""

    DEFAULT = 0
    ISO8601 = 1


class ErrorCode(IntEnum):
    """``TRITONSERVER_Error_Code``."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class MetricFormat(IntEnum):
    """``TRITONSERVER_MetricFormat``."""

    PROMETHEUS = 0


class MetricKind(IntEnum):
    """``TRITONSERVER_MetricKind``."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


class TraceLevel(IntFlag):
    """``TRITONSERVER_InferenceTraceLevel``; a bit set since TIMESTAMPS and TENSORS."""

    DISABLED = 0
    MIN = 1
    MAX = 2
    TIMESTAMPS = 4
    TENSORS = 8


class TraceActivity(IntEnum):
    """``TRITONSERVER_InferenceTraceActivity``."""

    REQUEST_START = 0
    QUEUE_START = 1
    COMPUTE_START = 2
    COMPUTE_INPUT_END = 3
    COMPUTE_OUTPUT_START = 4
    COMPUTE_END = 5
    REQUEST_END = 6
    TENSOR_QUEUE_INPUT = 7
    TENSOR_BACKEND_INPUT = 8
    TENSOR_BACKEND_OUTPUT = 9
    CUSTOM_ACTIVITY = 10


class RequestFlag(IntFlag):
    """``TRITONSERVER_RequestFlag``."""

    SEQUENCE_START = 1
    SEQUENCE_END = 2


class RequestReleaseFlag(IntFlag):
    """``TRITONSERVER_RequestReleaseFlag``."""

    ALL = 1
    RESCHEDULE = 2


class ResponseCompleteFlag(IntFlag):
    """``TRITONSERVER_ResponseCompleteFlag``."""

    FINAL = 1


class ModelControlMode(IntEnum):
    """``TRITONSERVER_ModelControlMode``."""

    NONE = 0
    POLL = 1
    EXPLICIT = 2


class RateLimitMode(IntEnum):
    """``TRITONSERVER_RateLimitMode``. The library's default is OFF, whatever its header says."""

    OFF = 0
    EXEC_COUNT = 1


class ModelBatchFlag(IntFlag):
    """``TRITONSERVER_ModelBatchFlag``."""

    UNKNOWN = 1
    FIRST_DIM = 2


class ModelIndexFlag(IntFlag):
    """``TRITONSERVER_ModelIndexFlag``."""

    READY = 1


class ModelTxnPropertyFlag(IntFlag):
    """``TRITONSERVER_ModelTxnPropertyFlag``."""

    ONE_TO_ONE = 1
    DECOUPLED = 2


class _Opaque(ctypes.Structure):
    """A struct whose layout only the library knows."""


class BufferAttributes_s(_Opaque):
    pass


class Error_s(_Opaque):
    pass


class InferenceRequest_s(_Opaque):
    pass


class InferenceResponse_s(_Opaque):
    pass


class InferenceTrace_s(_Opaque):
    pass


class Message_s(_Opaque):
    pass


class Metric_s(_Opaque):
    pass


class MetricArgs_s(_Opaque):
    pass


class MetricFamily_s(_Opaque):
    pass


class Metrics_s(_Opaque):
    pass


class Parameter_s(_Opaque):
    pass


class ResponseAllocator_s(_Opaque):
    pass


class Server_s(_Opaque):
    pass


class ServerOptions_s(_Opaque):
    pass


BufferAttributes_p = ctypes.POINTER(BufferAttributes_s)
Error_p = ctypes.POINTER(Error_s)
InferenceRequest_p = ctypes.POINTER(InferenceRequest_s)
InferenceResponse_p = ctypes.POINTER(InferenceResponse_s)
InferenceTrace_p = ctypes.POINTER(InferenceTrace_s)
Message_p = ctypes.POINTER(Message_s)
Metric_p = ctypes.POINTER(Metric_s)
MetricArgs_p = ctypes.POINTER(MetricArgs_s)
MetricFamily_p = ctypes.POINTER(MetricFamily_s)
Metrics_p = ctypes.POINTER(Metrics_s)
Parameter_p = ctypes.POINTER(Parameter_s)
ResponseAllocator_p = ctypes.POINTER(ResponseAllocator_s)
Server_p = ctypes.POINTER(Server_s)
ServerOptions_p = ctypes.POINTER(ServerOptions_s)

_enum = ctypes.c_int
_enum_p = ctypes.POINTER(ctypes.c_int)
_int64_p = ctypes.POINTER(ctypes.c_int64)
_void_pp = ctypes.POINTER(ctypes.c_void_p)

# A callback may return only a simple type, so the Error* that an allocator callback returns is an address here.
AllocFn = ctypes.CFUNCTYPE(
    ctypes.c_void_p,  # TRITONSERVER_Error*
    ResponseAllocator_p,
    ctypes.c_char_p,  # tensor_name
    ctypes.c_size_t,  # byte_size
    _enum,  # memory_type (preferred)
    ctypes.c_int64,  # memory_type_id (preferred)
    ctypes.c_void_p,  # userp
    _void_pp,  # out: buffer
    _void_pp,  # out: buffer_userp
    _enum_p,  # out: actual_memory_type
    _int64_p,  # out: actual_memory_type_id
)
ReleaseFn = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    ResponseAllocator_p,
    ctypes.c_void_p,  # buffer
    ctypes.c_void_p,  # buffer_userp
    ctypes.c_size_t,
    _enum,
    ctypes.c_int64,
)
StartFn = ctypes.CFUNCTYPE(ctypes.c_void_p, ResponseAllocator_p, ctypes.c_void_p)
QueryFn = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    ResponseAllocator_p,
    ctypes.c_void_p,  # userp
    ctypes.c_char_p,  # tensor_name
    ctypes.POINTER(ctypes.c_size_t),  # in/out byte_size, may be NULL
    _enum_p,  # in/out memory_type
    _int64_p,  # in/out memory_type_id
)
BufferAttributesFn = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    ResponseAllocator_p,
    ctypes.c_char_p,  # tensor_name
    BufferAttributes_p,
    ctypes.c_void_p,  # userp
    ctypes.c_void_p,  # buffer_userp
)
TraceActivityFn = ctypes.CFUNCTYPE(None, InferenceTrace_p, _enum, ctypes.c_uint64, ctypes.c_void_p)
TraceTensorActivityFn = ctypes.CFUNCTYPE(
    None,
    InferenceTrace_p,
    _enum,  # activity
    ctypes.c_char_p,  # name
    _enum,  # datatype
    ctypes.c_void_p,  # base
    ctypes.c_size_t,  # byte_size
    _int64_p,  # shape
    ctypes.c_uint64,  # dim_count
    _enum,  # memory_type
    ctypes.c_int64,  # memory_type_id
    ctypes.c_void_p,  # userp
)
TraceReleaseFn = ctypes.CFUNCTYPE(None, InferenceTrace_p, ctypes.c_void_p)
RequestReleaseFn = ctypes.CFUNCTYPE(None, InferenceRequest_p, ctypes.c_uint32, ctypes.c_void_p)
ResponseCompleteFn = ctypes.CFUNCTYPE(None, InferenceResponse_p, ctypes.c_uint32, ctypes.c_void_p)
