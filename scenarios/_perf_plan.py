"""perf's plan: the points to measure, and the models with their weights, read from what was typed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import UsageError

MOST_IN_FLIGHT = 65536
IN_FLIGHT = 256  # the most requests that are out in an open loop, unless it is said
_RANGE = re.compile(r"([\d.]+):([\d.]+)(?::(x?)([\d.]+))?")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MOST = 200  # points
_FASTEST = 10_000_000  # requests a second; no Triton takes a tenth of that
LONG = 60.0  # seconds; a step that lasts so long is watched for growth


@dataclass(frozen=True)
class Point:
    """One load: ``concurrency`` requests always out, or, with a ``rate`` (requests a second), at most so many."""

    concurrency: int
    rate: float | None = None

    @property
    def key(self) -> str:
        """What it is called, in tables and when it is compared."""
        return f"concurrency {self.concurrency}" if self.rate is None else f"rate {self.rate:g}"


@dataclass(frozen=True)
class Step:
    """One measurement: a point, on one side of a comparison (``A`` alone without one), in one round."""

    number: int
    point: Point
    side: str = "A"
    round: int = 0


def numbers(option: str, text: str, whole: bool) -> list[float]:
    """``4``, ``1,2,8``, ``1:8``, ``1:8:2``, ``1:16:x2`` as numbers above 0. Raises UsageError."""
    found: list[float] = []
    try:
        for word in text.split(","):
            match = _RANGE.fullmatch(word.strip())
            found += _spread(match) if match else [float(word)]
    except ValueError:
        found = []
    good = all(math.isfinite(n) and n > 0 and (not whole or n == int(n)) for n in found)
    if not found or not good or len(found) > _MOST:
        kind = "whole numbers" if whole else "numbers"
        raise UsageError(
            f"{option} {text}: give {kind} above 0: 4 or 1,2,8 or a range 1:8, 1:8:2, 1:16:x2 (at most {_MOST} points)"
        )
    return list(dict.fromkeys(found))


def _spread(match: re.Match[str]) -> list[float]:
    first, last, step = float(match[1]), float(match[2]), float(match[4] or 1)
    by_factor = bool(match[3])
    if last < first or first <= 0 or step <= (1 if by_factor else 0):
        raise ValueError
    found: list[float] = []
    value = first
    while value <= last * (1 + 1e-9) and len(found) <= _MOST:
        found.append(value)
        value = value * step if by_factor else value + step
    return found


def points(options: Mapping[str, Any]) -> list[Point]:
    """The points of ``--concurrency`` or ``--rate``. Raises UsageError."""
    if options["rate"] is None:
        text = "1" if options["concurrency"] is None else options["concurrency"]
        found = [Point(int(n)) for n in numbers("--concurrency", text, whole=True)]
        if max(point.concurrency for point in found) > MOST_IN_FLIGHT:
            raise UsageError(f"--concurrency {text}: at most {MOST_IN_FLIGHT:,} requests out")
        return found
    if options["concurrency"] is not None:
        raise UsageError("--concurrency and --rate exclude each other; --in-flight bounds what is out at a rate")
    limit = options["in_flight"] or IN_FLIGHT
    rates = numbers("--rate", options["rate"], whole=False)
    if max(rates) > _FASTEST:
        raise UsageError(f"--rate {options['rate']}: at most {_FASTEST:,} requests a second")
    return [Point(limit, n) for n in rates]


def steps(options: Mapping[str, Any]) -> list[Step]:
    """All measurements in their order; with two sides A B B A A B B A ..., so that a drift hits both alike."""
    found: list[Step] = []
    for point in (Point(**fields) for fields in options["points"]):
        if not options["two_sides"]:
            found.append(Step(len(found), point))
            continue
        for number in range(options["rounds"]):
            for side in "AB" if number % 2 == 0 else "BA":
                found.append(Step(len(found), point, side, number))
    return found


def weighted(names: Sequence[str]) -> list[dict[str, Any]]:
    """``A``, ``B:2`` as names and weights. Raises UsageError."""
    found = []
    for name in names:
        model, colon, weight = name.rpartition(":")
        if not colon:
            model, weight = name, "1"
        try:
            value = float(weight)
        except ValueError:
            value = 0.0
        if not model or not value > 0 or not math.isfinite(value):
            raise UsageError(f"-m {name}: give a model's name, or NAME:WEIGHT with a weight above 0")
        found.append({"name": model, "weight": value})
    if len({entry["name"] for entry in found}) < len(found):
        raise UsageError("-m: a model is named twice; give it a weight instead (NAME:2)")
    return found


def seconds(option: str, text: str) -> float:
    """``200ms``, ``90``, ``90s``, ``10m``, ``2h`` in seconds. Raises UsageError."""
    match = _TIME.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2] or "s"] if match else math.nan
    if not 0 <= value <= 1e6:
        raise UsageError(f"{option} {text!r} is no duration: use 200ms, 90s, 10m or 2h")
    return value


def shapes(texts: Sequence[str]) -> dict[str, list[int]]:
    """``NAME:1x16`` as a shape for each input; a scalar is ``NAME:``. Raises UsageError."""
    found: dict[str, list[int]] = {}
    for text in texts:
        name, colon, dims = text.rpartition(":")
        parts = dims.lower().split("x") if dims else []
        if not colon or not name or not all(part.isascii() and part.isdigit() for part in parts):
            raise UsageError(f"--shape {text}: give NAME:1x16, an input's name and its dimensions")
        found[name] = [int(part) for part in parts]
    return found


def as_plain(found: Sequence[Point]) -> list[dict[str, Any]]:
    """The points as plain data."""
    return [asdict(point) for point in found]


def longest(options: Mapping[str, Any]) -> float:
    """The most seconds that the measuring may take, without what starting and stopping takes."""
    one = options["duration"] or options["window"] * options["windows"] * 3  # windows stretch to their fewest requests
    if options["requests"]:
        one = max(one, 300.0)
    return float(len(steps(options)) * (one + options["warmup"]))


def titles(found: Sequence[Step]) -> Iterator[str]:
    """What each step is called while it runs."""
    for step in found:
        yield step.point.key + (f", side {step.side}, round {step.round + 1}" if step.side == "B" or step.round else "")


def lasts(options: Mapping[str, Any]) -> bool:
    """Whether it is one step in one process, long enough to see what grows."""
    long = (options["duration"] or 0) >= LONG
    return long and options["protocol"] == "c-api" and not options["two_sides"] and len(steps(options)) == 1
