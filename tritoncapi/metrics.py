"""Custom metrics: families and metrics in the process's registry, which every server's metrics text shows."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from ._handle import Handle
from ._library import Library, load
from ._types import MetricKind
from .parameter import ParameterValue, parameter_array


class MetricFamily(Handle):
    """``TRITONSERVER_MetricFamilyNew``. A name may be used again, with the same kind. Close its metrics first."""

    noun = "metric family"

    def __init__(self, kind: MetricKind, name: str, description: str, library: Library | None = None) -> None:
        self._library = library or load()
        self._api = self._library.api
        super().__init__(self._api.MetricFamilyNew(kind, name.encode(), description.encode()), self._library)
        self.name = name

    @property
    def kind(self) -> MetricKind:
        """``TRITONSERVER_GetMetricFamilyKind``."""
        return MetricKind(self._api.GetMetricFamilyKind(self.pointer))

    def metric(self, labels: Mapping[str, ParameterValue] | None = None, buckets: Sequence[float] = ()) -> Metric:
        """A metric of this family; a histogram needs its buckets' upper bounds, in rising order."""
        return Metric(self, labels or {}, buckets)

    def _dispose(self, pointer: Any) -> None:
        self._api.MetricFamilyDelete(pointer)


class Metric(Handle):
    """``TRITONSERVER_MetricNew``, with buckets ``...MetricNewWithArgs``."""

    noun = "metric"

    def __init__(
        self, family: MetricFamily, labels: Mapping[str, ParameterValue], buckets: Sequence[float] = ()
    ) -> None:
        self._api = api = family._api
        with parameter_array(family._library, labels) as (array, count):
            if not buckets:
                pointer = api.MetricNew(family.pointer, array, count)
            else:
                bounds = (ctypes.c_double * len(buckets))(*buckets)
                arguments = api.MetricArgsNew()
                try:
                    api.MetricArgsSetHistogram(arguments, bounds, len(buckets))
                    pointer = api.MetricNewWithArgs(family.pointer, array, count, arguments)
                finally:
                    api.MetricArgsDelete(arguments)
        super().__init__(pointer, family)

    @property
    def kind(self) -> MetricKind:
        """``TRITONSERVER_GetMetricKind``."""
        return MetricKind(self._api.GetMetricKind(self.pointer))

    @property
    def value(self) -> float:
        """A counter's or gauge's value; UnsupportedError for a histogram (``TRITONSERVER_MetricValue``)."""
        return float(self._api.MetricValue(self.pointer))

    def increment(self, by: float = 1.0) -> None:
        """Adds to a counter or gauge (``TRITONSERVER_MetricIncrement``); a counter refuses negative values."""
        self._api.MetricIncrement(self.pointer, by)

    def set(self, value: float) -> None:
        """Sets a gauge (``TRITONSERVER_MetricSet``)."""
        self._api.MetricSet(self.pointer, value)

    def observe(self, value: float) -> None:
        """Adds a sample to a histogram (``TRITONSERVER_MetricObserve``)."""
        self._api.MetricObserve(self.pointer, value)

    def _dispose(self, pointer: Any) -> None:
        self._api.MetricDelete(pointer)
