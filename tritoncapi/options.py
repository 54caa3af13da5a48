"""ServerOptions: everything that ``TRITONSERVER_ServerOptions*`` can be told, as plain data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Union

from ._library import Library
from ._types import InstanceGroupKind, LogFormat, ModelControlMode, RateLimitMode

PathLike = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Resource:
    """A rate limiter resource; device -1 means each device has ``count`` of it."""

    name: str
    count: int
    device: int = -1


@dataclass(frozen=True)
class DeviceLimit:
    """The fraction of a device's memory up to which models may be loaded on it."""

    kind: InstanceGroupKind
    device: int
    fraction: float


@dataclass(frozen=True)
class ServerOptions:
    """Options of a server. ``None`` leaves Triton's own default.

    Two defaults differ from Triton's on purpose: ``model_load_retry_count`` is 0 (the library leaves it uninitialised
    and then retries a failing load for ever), and the backend, cache and repository agent directories are those of the
    loaded Triton instead of the container's.
    """

    model_repository: PathLike | Sequence[PathLike] = ()
    server_id: str | None = None
    model_control_mode: ModelControlMode = ModelControlMode.EXPLICIT
    startup_models: Sequence[str] = ()
    strict_model_config: bool | None = None
    model_config_name: str | None = None
    model_namespacing: bool | None = None
    strict_readiness: bool | None = None
    exit_on_error: bool | None = None
    exit_timeout: int | None = None  # seconds
    buffer_manager_threads: int | None = None
    model_load_threads: int | None = None
    model_load_retry_count: int = 0
    rate_limit_mode: RateLimitMode | None = None
    rate_limiter_resources: Sequence[Resource] = ()
    pinned_memory_pool_bytes: int | None = None
    cuda_memory_pool_bytes: Mapping[int, int] = field(default_factory=dict)  # device -> bytes
    cuda_virtual_address_bytes: Mapping[int, int] = field(default_factory=dict)  # device -> bytes
    enable_peer_access: bool | None = None
    min_compute_capability: float | None = None
    model_load_device_limits: Sequence[DeviceLimit] = ()
    response_cache_bytes: int | None = None
    cache_config: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # cache -> settings
    backend_directory: PathLike | None = None
    cache_directory: PathLike | None = None
    repoagent_directory: PathLike | None = None
    backend_config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # backend ("": all) -> settings
    host_policies: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # policy -> settings
    metrics: bool | None = None
    gpu_metrics: bool | None = None
    cpu_metrics: bool | None = None
    metrics_interval_ms: int | None = None
    metrics_config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # metric ("": all) -> settings
    log_file: PathLike | None = None
    log_info: bool | None = None
    log_warn: bool | None = None
    log_error: bool | None = None
    log_verbose: int | None = None
    log_format: LogFormat | None = None

    @property
    def repositories(self) -> list[str]:
        """The model repositories' paths."""
        given = self.model_repository
        return [os.fspath(given)] if isinstance(given, (str, os.PathLike)) else [os.fspath(path) for path in given]

    @contextmanager
    def build(self, library: Library) -> Iterator[Any]:
        """A ``TRITONSERVER_ServerOptions`` for the time of one ``TRITONSERVER_ServerNew``."""
        api = library.api
        options = api.ServerOptionsNew()
        try:
            self._set(library, options)
            yield options
        finally:
            api.ServerOptionsDelete(options)

    def _set(self, library: Library, options: Any) -> None:
        api, triton = library.api, library.triton

        def one(function: Callable[..., Any], value: Any) -> None:
            if value is not None:
                function(options, os.fsencode(value) if isinstance(value, (str, os.PathLike)) else value)

        def nested(function: Callable[..., Any], settings: Mapping[str, Mapping[str, str]]) -> None:
            for name, pairs in settings.items():
                for key, value in pairs.items():
                    function(options, name.encode(), key.encode(), str(value).encode())

        for path in self.repositories:
            api.ServerOptionsSetModelRepositoryPath(options, os.fsencode(path))
        for model in self.startup_models:
            api.ServerOptionsSetStartupModel(options, model.encode())
        for resource in self.rate_limiter_resources:
            api.ServerOptionsAddRateLimiterResource(options, resource.name.encode(), resource.count, resource.device)
        for device, size in self.cuda_memory_pool_bytes.items():
            api.ServerOptionsSetCudaMemoryPoolByteSize(options, device, size)
        for device, size in self.cuda_virtual_address_bytes.items():
            api.ServerOptionsSetCudaVirtualAddressSize(options, device, size)
        for limit in self.model_load_device_limits:
            api.ServerOptionsSetModelLoadDeviceLimit(options, limit.kind, limit.device, limit.fraction)
        for cache, config in self.cache_config.items():
            api.ServerOptionsSetCacheConfig(options, cache.encode(), json.dumps(dict(config)).encode())
        nested(api.ServerOptionsSetBackendConfig, self.backend_config)
        nested(api.ServerOptionsSetHostPolicy, self.host_policies)
        nested(api.ServerOptionsSetMetricsConfig, self.metrics_config)

        if library.api_version >= (1, 28):
            one(api.ServerOptionsSetModelLoadRetryCount, self.model_load_retry_count)
        if library.api_version >= (1, 22):
            one(api.ServerOptionsSetCacheDirectory, self.cache_directory or triton.caches)
        one(api.ServerOptionsSetBackendDirectory, self.backend_directory or triton.backends)
        one(api.ServerOptionsSetRepoAgentDirectory, self.repoagent_directory or triton.repoagents)
        for function, value in (
            (api.ServerOptionsSetServerId, self.server_id),
            (api.ServerOptionsSetModelControlMode, self.model_control_mode),
            (api.ServerOptionsSetStrictModelConfig, self.strict_model_config),
            (api.ServerOptionsSetModelConfigName, self.model_config_name),
            (api.ServerOptionsSetModelNamespacing, self.model_namespacing),
            (api.ServerOptionsSetStrictReadiness, self.strict_readiness),
            (api.ServerOptionsSetExitOnError, self.exit_on_error),
            (api.ServerOptionsSetExitTimeout, self.exit_timeout),
            (api.ServerOptionsSetBufferManagerThreadCount, self.buffer_manager_threads),
            (api.ServerOptionsSetModelLoadThreadCount, self.model_load_threads),
            (api.ServerOptionsSetRateLimiterMode, self.rate_limit_mode),
            (api.ServerOptionsSetPinnedMemoryPoolByteSize, self.pinned_memory_pool_bytes),
            (api.ServerOptionsSetEnablePeerAccess, self.enable_peer_access),
            (api.ServerOptionsSetMinSupportedComputeCapability, self.min_compute_capability),
            (api.ServerOptionsSetResponseCacheByteSize, self.response_cache_bytes),
            (api.ServerOptionsSetMetrics, self.metrics),
            (api.ServerOptionsSetGpuMetrics, self.gpu_metrics),
            (api.ServerOptionsSetCpuMetrics, self.cpu_metrics),
            (api.ServerOptionsSetMetricsInterval, self.metrics_interval_ms),
            (api.ServerOptionsSetLogFile, self.log_file),
            (api.ServerOptionsSetLogInfo, self.log_info),
            (api.ServerOptionsSetLogWarn, self.log_warn),
            (api.ServerOptionsSetLogError, self.log_error),
            (api.ServerOptionsSetLogVerbose, self.log_verbose),
            (api.ServerOptionsSetLogFormat, self.log_format),
        ):
            one(function, value)
