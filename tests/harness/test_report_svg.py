"""The small charts: ticks, scales, and that thinning loses no peak."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report.svg import WIDTH, Frame, Scale, bounds, tag, thinned

FINITE = st.floats(-1e15, 1e15)


def test_thinning_keeps_every_peak_and_the_order() -> None:
    chance = random.Random(3)
    points = [(float(n), chance.random()) for n in range(100_000)]
    points[4321], points[77_777] = (4321.0, 50.0), (77_777.0, -50.0)
    x = Scale(0, 99_999)
    kept = thinned(points, x)
    assert len(kept) <= 2 * (WIDTH + 1)
    assert {points[4321], points[77_777]} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(points[:1000], x) == points[:1000]


@settings(deadline=None)
@given(FINITE, FINITE, st.booleans())
def test_ticks_lie_on_the_scale(low: float, high: float, whole: bool) -> None:
    scale = bounds([low, high], whole=whole)
    ticks = scale.ticks()
    assert len(ticks) <= 21
    slack = (scale.high - scale.low) * 1e-6
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)
    assert all(-0.001 <= scale(value) <= 1.001 for value in (low, high))


def test_ticks_are_round() -> None:
    assert Scale(0, 10).ticks() == [0, 2, 4, 6, 8, 10]
    assert Scale(0, 1, whole=True).ticks() == [0, 1]
    assert Scale(10 << 20, 12 << 20, unit=1 << 20).ticks(4) == [
        10 << 20,
        10.5 * 2**20,
        11 << 20,
        11.5 * 2**20,
        12 << 20,
    ]
    assert Scale(10, 1e5, log=True).ticks() == [10, 100, 1000, 10_000, 100_000]
    assert bounds([7.0, 7.0]) == Scale(0, 14)
    assert bounds([0.0]) == Scale(0, 1)


def test_charts_are_well_formed_whatever_they_say() -> None:
    frame = Frame(Scale(0, 10), Scale(0, 1), str, str)
    words = "</svg><script>&\"'\x00"
    dot = frame.dot((1, 0.5), words, words)
    root = ET.fromstring(frame.chart(words, [frame.line([(0, 0), (10, 1)], words), frame.area([], words)], [dot]))
    assert root.get("aria-label") == "</svg><script>&\"'\u2400"
    assert not list(root.iter("script"))
    assert tag("b", words, data_x=words) == '<b data-x="&lt;/svg&gt;&lt;script&gt;&amp;&#34;&#39;\u2400">' + (
        "&lt;/svg&gt;&lt;script&gt;&amp;&#34;&#39;\u2400</b>"
    )
