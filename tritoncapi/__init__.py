"""NVIDIA Triton's C API in Python: real servers inside the process, and memory placed where one wants it."""

from ._library import Library, load
from ._locate import Triton, find
from ._types import (
    DataType,
    ErrorCode,
    InstanceGroupKind,
    LogFormat,
    LogLevel,
    MemoryType,
    MetricKind,
    ModelBatchFlag,
    ModelControlMode,
    ModelTxnPropertyFlag,
    ParameterType,
    RateLimitMode,
    RequestFlag,
    TraceActivity,
    TraceLevel,
)
from .allocator import Allocation, CallableAllocator, ResponseAllocator
from .allocator_base import AllocatorCounts
from .attributes import BufferAttributes
from .dlpack import TensorView, from_dlpack
from .execution import Execution, InferTimeout, Progress
from .histogram import Histogram, Interval, Series
from .many import Responses
from .memory import Buffer
from .message import Message
from .metrics import Metric, MetricFamily
from .options import DeviceLimit, Resource, ServerOptions
from .output import Output
from .parameter import Parameter
from .place import CPU, PINNED, Place, gpu
from .request import InferenceRequest
from .response import InferenceResponse
from .server import IndexEntry, Server, StopTimeout
from .trace import Activity, Trace, TracedTensor
from .traffic import Sample, Target, Traffic
from .traffic_report import Ending, TrafficCount, TrafficFigures, TrafficReport

__all__ = [
    "CPU",
    "PINNED",
    "Activity",
    "Allocation",
    "AllocatorCounts",
    "Buffer",
    "BufferAttributes",
    "CallableAllocator",
    "DataType",
    "DeviceLimit",
    "Ending",
    "ErrorCode",
    "Execution",
    "Histogram",
    "IndexEntry",
    "InferTimeout",
    "InferenceRequest",
    "InferenceResponse",
    "InstanceGroupKind",
    "Interval",
    "Library",
    "LogFormat",
    "LogLevel",
    "MemoryType",
    "Message",
    "Metric",
    "MetricFamily",
    "MetricKind",
    "ModelBatchFlag",
    "ModelControlMode",
    "ModelTxnPropertyFlag",
    "Output",
    "Parameter",
    "ParameterType",
    "Place",
    "Progress",
    "RateLimitMode",
    "RequestFlag",
    "Resource",
    "ResponseAllocator",
    "Responses",
    "Sample",
    "Series",
    "Server",
    "ServerOptions",
    "StopTimeout",
    "Target",
    "TensorView",
    "Trace",
    "TraceActivity",
    "TraceLevel",
    "TracedTensor",
    "Traffic",
    "TrafficCount",
    "TrafficFigures",
    "TrafficReport",
    "Triton",
    "find",
    "from_dlpack",
    "gpu",
    "load",
]
