"""Custom metrics of all three kinds."""

from __future__ import annotations

import re
from typing import Any

import pytest

import tritoncapi as tc
from tritoncapi.errors import ClosedError, InternalError, InvalidArgError, UnsupportedError

COUNTER, GAUGE, HISTOGRAM = tc.MetricKind


def lines(server: tc.Server, name: str) -> list[str]:
    return [line for line in server.metrics().splitlines() if re.match(rf"(# \w+ )?{name}", line)]


def test_a_counter(server: tc.Server) -> None:
    with tc.MetricFamily(COUNTER, "tests_counter", "a text") as family, family.metric({"a": "x"}) as metric:
        assert (family.name, family.kind, metric.kind, metric.value) == ("tests_counter", COUNTER, COUNTER, 0.0)
        metric.increment()
        metric.increment(2.5)
        assert metric.value == 3.5
        with pytest.raises(InvalidArgError, match="monotonically"):
            metric.increment(-1)
        with pytest.raises(UnsupportedError, match="does not support Set"):
            metric.set(1)
        with pytest.raises(UnsupportedError, match="does not support Observe"):
            metric.observe(1)
        assert lines(server, "tests_counter") == [
            "# HELP tests_counter a text",
            "# TYPE tests_counter counter",
            'tests_counter{a="x"} 3.5',
        ]


def test_a_gauge(server: tc.Server) -> None:
    with tc.MetricFamily(GAUGE, "tests_gauge", "") as family, family.metric() as metric:
        metric.set(5)
        metric.increment(-7.5)
        assert (metric.kind, metric.value) == (GAUGE, -2.5)
        with pytest.raises(UnsupportedError):
            metric.observe(1)
        assert lines(server, "tests_gauge")[-1] == "tests_gauge -2.5"


def test_a_histogram(server: tc.Server) -> None:
    with (
        tc.MetricFamily(HISTOGRAM, "tests_histogram", "") as family,
        family.metric({"a": "x"}, buckets=[1, 2.5]) as metric,
    ):
        for value in (0.5, 2, 2, 100):
            metric.observe(value)
        assert metric.kind == family.kind == HISTOGRAM
        text = lines(server, "tests_histogram")
        assert 'tests_histogram_count{a="x"} 4' in text
        assert 'tests_histogram_sum{a="x"} 104.5' in text
        assert [line.split()[-1] for line in text if "_bucket" in line] == ["1", "3", "4"]
        for use in (lambda: metric.value, metric.increment, lambda: metric.set(1)):
            with pytest.raises(UnsupportedError):
                use()


def test_labels_tell_metrics_apart(server: tc.Server) -> None:
    with tc.MetricFamily(GAUGE, "tests_labels", "") as family:
        made: list[tc.Metric] = [family.metric({"a": "x", "b": str(index)}) for index in range(3)]
        for index, metric in enumerate(made):
            metric.set(index)
        found = [line.split()[-1] for line in lines(server, "tests_labels") if not line.startswith("#")]
        assert sorted(found) == ["0", "1", "2"]
        with family.metric({"a": "x", "b": "1"}) as same:
            assert same.value == 1, "the same labels are the same metric"
        for metric in made:
            metric.close()
        assert [line for line in lines(server, "tests_labels") if not line.startswith("#")] == []


@pytest.mark.parametrize(
    ("kind", "labels", "buckets", "error", "message"),
    [
        (GAUGE, {"a": 1}, (), InvalidArgError, "PARAMETER_STRING"),
        (HISTOGRAM, {}, (), InvalidArgError, "Bucket boundaries not found"),
        (HISTOGRAM, {}, (2.0, 1.0), InvalidArgError, "must be strictly sorted"),
    ],
)
def test_metrics_that_cannot_be(
    server: tc.Server, kind: tc.MetricKind, labels: Any, buckets: Any, error: type[Exception], message: str
) -> None:
    with (
        tc.MetricFamily(kind, f"tests_wrong_{kind.name.lower()}", "") as family,
        pytest.raises(error, match=message),
    ):
        family.metric(labels, buckets)


def test_families_that_cannot_be(server: tc.Server) -> None:
    with pytest.raises(InvalidArgError, match="Invalid metric name"):
        tc.MetricFamily(GAUGE, "no name!", "")
    with (
        tc.MetricFamily(GAUGE, "tests_twice", ""),
        pytest.raises(InvalidArgError, match="already exists with different type"),
    ):
        tc.MetricFamily(COUNTER, "tests_twice", "")


def test_a_family_with_metrics_is_not_deleted_and_stays_usable(server: tc.Server) -> None:
    family = tc.MetricFamily(GAUGE, "tests_family", "")
    with family.metric() as metric:
        with pytest.raises(InternalError, match="Must call MetricDelete"):
            family.close()
        assert not family.closed
        metric.set(4)
        assert lines(server, "tests_family")[-1] == "tests_family 4"
    family.close()
    with pytest.raises(ClosedError):
        family.metric()


def test_metrics_live_without_a_server(library: tc.Library) -> None:
    with tc.MetricFamily(GAUGE, "tests_serverless", "") as family, family.metric() as metric:
        metric.set(1)
        assert metric.value == 1
