"""The history as a timeline: a lane for each thread, a bar for each operation, and how many were under way at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .figures import Span, spans_of
from .plain import number, rows, shortened
from .series import seconds, whole
from .svg import WIDTH, Frame, Scale, anchor, tag, thinned

_LANES = 64
_BARS = 6000  # on one page
_SEEN = 2.5  # of WIDTH: the least width of a bar that nobody may miss
_BAD = ("fail", "unknown", "unfinished")
_WORST = ("fail", "unknown", "unfinished", "ok")


@dataclass(frozen=True)
class Lane:
    """One row: its label and its bars."""

    label: str
    bars: Markup


@dataclass(frozen=True)
class Timeline:
    """All lanes, the axis below them, the chart of what was under way at once, and notes on how it was drawn."""

    lanes: Sequence[Lane]
    axis: Markup
    at_once: Markup
    at_once_note: str
    notes: Sequence[str]
    kinds: Mapping[str, int]


@dataclass(frozen=True)
class _Bar:
    begin: float
    end: float
    kind: str
    says: str


def timeline(events: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]] = ()) -> Timeline | None:
    """The timeline; None where the history has neither operations nor phases with a time."""
    times = [at for line in [*events, *samples] if (at := number(line.get("time_ns"))) is not None]
    spans = spans_of(events)
    if not times or max(times) <= min(times):
        return None
    begin, end = min(times), max(times)
    x = Scale(0, (end - begin) / 1e9)
    phases = _phases(events, begin, end)
    if not spans and not phases:
        return None
    notes: list[str] = []
    lanes = [Lane("phase", _bars([phases], x, WIDTH)[0])] if phases else []
    workers = _by_worker(spans, begin, end)
    shown = _chosen(workers)
    if len(shown) < len(workers):
        notes.append(f"{len(shown)} of {len(workers)} threads are drawn, those with failures first")
    columns = max(60, min(2 * WIDTH, _BARS // max(len(shown), 1)))
    drawn = _bars([workers[name] for name in shown], x, columns)
    lanes += [Lane(f"thread {name}", bars) for name, bars in zip(shown, drawn, strict=True)]
    least = x.high / columns
    if sum(len(workers[name]) for name in shown) > 200:
        notes.append(f"operations within {least:.2g} s of a thread are drawn as one bar, in the colour of the worst")
    marks = (
        [Lane("fault", _marks(events, begin, x))] if any(e.get("event") in ("fault", "struck") for e in events) else []
    )
    kinds = Counter(span.kind for span in spans)
    return Timeline([*marks, *lanes], _axis(x), *_at_once(events, spans, begin, end, x), notes, dict(kinds))


def _phases(events: Sequence[Mapping[str, Any]], begin: float, end: float) -> list[_Bar]:
    found = sorted(
        ((at - begin) / 1e9, str(event.get("name")))
        for event in events
        if event.get("event") == "phase" and (at := number(event.get("time_ns"))) is not None
    )
    ends = [at for at, _ in [*found[1:], ((end - begin) / 1e9, "")]][: len(found)]
    return [
        _Bar(at, until, f"phase{n % 2}", f"{name}: {_span(until - at)}")
        for n, ((at, name), until) in enumerate(zip(found, ends, strict=True))
    ]


def _by_worker(spans: Sequence[Span], begin: float, end: float) -> dict[str, list[_Bar]]:
    lanes: dict[str, list[_Bar]] = {}
    for span in spans:
        over = end if span.end is None else span.end
        says = f"thread {span.worker}, number {span.name}: {span.kind}, {_span((over - span.begin) / 1e9)}"
        text = f"; {shortened(span.text, 200)}" if span.text else ""
        kind = span.kind if span.kind in _WORST else "unknown"
        lanes.setdefault(span.worker, []).append(
            _Bar((span.begin - begin) / 1e9, (over - begin) / 1e9, kind, says + text)
        )
    order = sorted(lanes, key=lambda name: (int(name) if name.isdecimal() and len(name) < 10 else 1 << 40, name))
    return {name: lanes[name] for name in order}


def _chosen(workers: Mapping[str, Sequence[_Bar]]) -> list[str]:
    names = list(workers)
    if len(names) <= _LANES:
        return names
    bad = [name for name in names if any(bar.kind != "ok" for bar in workers[name])]
    kept = set([*bad, *(name for name in names if name not in bad)][:_LANES])
    return [name for name in names if name in kept]


def _bars(lanes: Sequence[Sequence[_Bar]], x: Scale, columns: int) -> list[Markup]:
    merged = (_merged(lane, x.high / columns) for lane in lanes)
    # What went wrong lies on top.
    return [_lane([_rect(bar, x) for bar in sorted(lane, key=lambda bar: bar.kind in _BAD)]) for lane in merged]


def _merged(bars: Sequence[_Bar], least: float) -> list[_Bar]:
    """Neighbours that are closer and shorter than can be seen become one bar."""
    found: list[_Bar] = []
    many: list[_Bar] = []

    def flush() -> None:
        if len(many) == 1:
            found.append(many[0])
        elif many:
            kinds = Counter(bar.kind for bar in many)
            kind = next((kind for kind in _WORST if kind in kinds), many[0].kind)
            words = ", ".join(f"{count} {name}" for name, count in kinds.items())
            bad = next((f"; {bar.says}" for bar in many if bar.kind == kind and kind != "ok"), "")
            found.append(_Bar(many[0].begin, max(bar.end for bar in many), kind, f"{words}{bad}"))
        many.clear()

    for bar in bars:
        if many and bar.end - many[0].begin > least:
            flush()
        many.append(bar)
    flush()
    return found


def _rect(bar: _Bar, x: Scale) -> Markup:
    left, right = x(bar.begin) * WIDTH, x(bar.end) * WIDTH
    # A pixel between neighbours, where there is room for it.
    width = max(right - left - (0.6 if right - left > 3 else 0), _SEEN if bar.kind in _BAD else 0.5)
    left = max(0.0, min(left, WIDTH - width))
    return tag("rect", tag("title", bar.says), x=left, y=0, width=width, height=10, class_=f"bar {bar.kind}")


def _lane(inner: Sequence[Markup]) -> Markup:
    return tag("svg", *inner, viewBox=f"0 0 {WIDTH} 10", preserveAspectRatio="none", class_="bars", aria_hidden="true")


def _marks(events: Sequence[Mapping[str, Any]], begin: float, x: Scale) -> Markup:
    marks = []
    for event in events:
        at = number(event.get("time_ns"))
        if event.get("event") not in ("fault", "struck") or at is None:
            continue
        words = " ".join(str(event[key]) for key in ("name", "what", "state", "text") if event.get(key))
        says = f"{seconds(round((at - begin) / 1e9, 3))}: {event['event']} {words}"
        left = x((at - begin) / 1e9) * WIDTH
        marks.append(tag("rect", tag("title", says), x=left, y=0, width=2, height=10, class_="bar mark"))
    return _lane(marks)


def _axis(x: Scale) -> Markup:
    parts = []
    for value in x.ticks():
        share = x(value)
        place = f"{100 * share:.2f}%"
        parts.append(tag("text", seconds(value), x=place, y=12, text_anchor=anchor(share), class_="tick"))
    return tag("svg", *parts, width="100%", height=16, class_="axis", aria_hidden="true")


def _at_once(
    events: Sequence[Mapping[str, Any]], spans: Sequence[Span], begin: float, end: float, x: Scale
) -> tuple[Markup, str]:
    """How many were alive (where operations say when: ``value.alive``), else under way, at once."""
    alive = [
        (first, last)
        for event in events
        if event.get("event") == "op" and isinstance(event.get("value"), Mapping)
        for times in [[number(at) for at in rows(event["value"].get("alive"))]]
        if len(times) > 1 and (first := times[0]) is not None and (last := times[-1]) is not None
    ]
    what = "servers alive" if alive else "operations under way"
    between = alive or [(span.begin, end + 1 if span.end is None else span.end) for span in spans]  # they go on
    if len(between) < 2:
        return Markup(""), ""
    edges = sorted([(first, 1) for first, _ in between] + [(last, -1) for _, last in between])
    points, level, area, before = [(0.0, 0.0)], 0, 0.0, begin
    for at, step in edges:
        area += level * (at - before)
        level, before = level + step, at
        points.append(((at - begin) / 1e9, float(level)))
    points.append((x.high, points[-1][1]))
    peak = max(level for _, level in points)
    span = edges[-1][0] - edges[0][0]
    note = f"{what} at once: at most {peak:g}, {area / span if span > 0 else 0:.2g} in the mean"
    frame = Frame(x, Scale(0, peak * 1.06, whole=True), seconds, whole, height=60)
    return frame.chart(note, [frame.line(thinned(points, x), "data", steps=True)]), note


def _span(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
