"""Small charts as inline SVG.

Text and circles are placed in percent of the width, so they keep their size on any screen; lines lie in an inner
picture that is stretched, and the labels of y in one of their own. Colours come from the page's style sheet, by class.
Everything that goes in is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from markupsafe import Markup, escape

from .plain import visible

WIDTH = 600  # columns of the inner picture; what is finer is drawn as its lowest and highest value
_FOOT = 18  # pixels below the plot, for the labels of x
_HEAD = 8  # pixels above the plot
_LEFT = 62  # pixels left of the plot, for the labels of y
Point = tuple[float, float]


def tag(name: str, *inner: str, **attributes: object) -> Markup:
    """One element; ``_`` in an attribute's name is ``-``, ``class_`` is ``class``; None leaves an attribute out."""
    made = Markup("").join(
        Markup(' {}="{}"').format(
            Markup(key.rstrip("_").replace("_", "-") if key != "viewBox" else key), _written(value)
        )
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), made, Markup("").join(map(_shown, inner)))


def _shown(part: str) -> Markup:
    return part if isinstance(part, Markup) else escape(visible(part))


def _written(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else visible(value)


@dataclass(frozen=True)
class Scale:
    """From ``low`` to ``high`` (log: both above 0) onto 0 to 1; a single value lies in the middle.

    Its ticks are round in multiples of ``unit`` (1024 for KiB); those of counts (``whole``) are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    unit: float = 1.0
    whole: bool = False

    def __call__(self, value: float) -> float:
        """Where the value lies."""
        low, high, at = (self._bent(each) for each in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5

    def _bent(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    def ticks(self, most: int = 5) -> list[float]:
        """Round values on it: powers of ten on a log scale, else steps of 1, 2 or 5."""
        if not self.high > self.low:
            return [self.low]
        if self.log:
            return self._powers(most)
        step = self.step(most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * n for n in range(first, min(last, first + 4 * most) + 1)]

    def step(self, most: int = 5) -> float:
        """How far the ticks are apart."""
        step = _round_up((self.high - self.low) / self.unit / most)
        return (max(1.0, step) if self.whole else step) * self.unit

    def _powers(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        every = max(1, math.ceil((last - first) / (most + 1)))
        found = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
        inside = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
        return inside if inside else [self.low, self.high]


def _round_up(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def bounds(values: Iterable[float], *, zero: bool = False, unit: float = 1.0, whole: bool = False) -> Scale:
    """A scale that holds them, with a little air; from 0 on if asked. A constant lies between 0 and its double."""
    found = list(values)
    low, high = min(found), max(found)
    if zero:
        low = min(low, 0.0)
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1e-290):  # what lies between is rounding
        level = 2 * low if abs(low) > 1e-290 else 0.0
        return Scale(min(0.0, level), max(0.0, level) or float(not level), unit=unit, whole=whole)
    room = (high - low) * 0.06
    return Scale(low if zero else low - room, high + room, unit=unit, whole=whole)


def thinned(points: Sequence[Point], x: Scale, columns: int = WIDTH) -> list[Point]:
    """In each of the columns the lowest and the highest point, in their order; all where they are few."""
    if len(points) <= 2 * columns:
        return list(points)
    kept: list[Point] = []
    for _, column in groupby(points, key=lambda point: int(x(point[0]) * columns)):
        members = list(column)
        low = min(range(len(members)), key=lambda n: members[n][1])
        high = max(range(len(members)), key=lambda n: members[n][1])
        kept += [members[n] for n in sorted({low, high})]
    return kept


@dataclass(frozen=True)
class Frame:
    """The axes of a chart; ``height`` is the plot's, in pixels."""

    x: Scale
    y: Scale
    x_word: Callable[[float], str]
    y_word: Callable[[float], str]
    height: int = 120
    x_ticks: Sequence[float] = ()

    def at(self, point: Point) -> str:
        """A point in the inner picture: ``x,y``."""
        return f"{_digits(self.x(point[0]) * WIDTH)} {_digits((1 - self.y(point[1])) * self.height)}"

    def line(self, points: Sequence[Point], class_: str, *, steps: bool = False) -> Markup:
        """A line through the points, or the edge of the steps that they begin."""
        if not points:
            return Markup("")
        way = "M" + self.at(points[0])
        for before, after in pairwise(points):
            way += ("L" + self.at((after[0], before[1])) if steps else "") + "L" + self.at(after)
        return tag("path", d=way, class_=f"line {class_}")

    def area(self, points: Sequence[Point], class_: str) -> Markup:
        """The polygon of the points."""
        return tag("path", d="M" + "L".join(map(self.at, points)) + "Z", class_=f"area {class_}")

    def dot(self, point: Point, class_: str, says: str) -> Markup:
        """A point that says something when pointed at."""
        return tag(
            "circle",
            tag("title", says),
            cx=f"{_digits(self.x(point[0]) * 100)}%",
            cy=_HEAD + (1 - self.y(point[1])) * self.height,
            r=3,
            class_=f"dot {class_}",
        )

    def chart(self, label: str, lines: Iterable[str], dots: Iterable[str] = ()) -> Markup:
        """The chart; ``label`` says in words what it shows."""
        bottom = _HEAD + self.height
        names, parts = [], []
        for value in self.y.ticks(4):
            y = _HEAD + (1 - self.y(value)) * self.height
            names.append(tag("text", self.y_word(value), x=_LEFT - 6, y=y + 4, text_anchor="end", class_="tick"))
            parts.append(tag("line", x1=0, x2="100%", y1=y, y2=y, class_="grid"))
        parts.append(tag("line", x1=0, x2="100%", y1=bottom, y2=bottom, class_="axis"))
        for value in self.x_ticks or self.x.ticks():
            share = self.x(value)
            place = f"{_digits(share * 100)}%"
            parts += [
                tag("line", x1=place, x2=place, y1=bottom, y2=bottom + 4, class_="axis"),
                tag("text", self.x_word(value), x=place, y=bottom + 15, text_anchor=anchor(share), class_="tick"),
            ]
        box = f"0 0 {WIDTH} {self.height}"
        plot = {"width": "100%", "height": self.height, "viewBox": box, "preserveAspectRatio": "none"}
        parts.append(tag("svg", *lines, x=0, y=_HEAD, class_="plot", **plot))
        parts += [Markup(dot) for dot in dots]
        height = bottom + _FOOT
        left = tag("svg", *names, width=_LEFT, height=height)
        right = tag("svg", *parts, width="100%", height=height)
        return tag("div", left, right, role="img", aria_label=label, class_="chart")


def anchor(share: float) -> str:
    """Which way a label at this share of the width is to hang, so that it stays inside."""
    return "start" if share < 0.04 else "end" if share > 0.93 else "middle"


def _digits(value: float) -> str:
    """A coordinate: two digits after the point are finer than any screen."""
    return f"{min(max(value, -1e6), 1e6):.2f}".rstrip("0").rstrip(".")
