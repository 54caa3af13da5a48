"""Pairs: two ways to do a thing, measured in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable

Measure = Callable[[], float]


def compare(title: str, unit: str, a: tuple[str, Measure], b: tuple[str, Measure], rounds: int = 7) -> float:
    """Prints the medians of A and B and the median of B/A; returns the latter. One unmeasured round comes first."""
    (name_a, run_a), (name_b, run_b) = a, b
    run_a(), run_b()
    pairs = [(run_a(), run_b()) for _ in range(rounds)]
    ratios = sorted(y / x for x, y in pairs)
    ratio = statistics.median(ratios)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"\n{title}")
    print(f"  {name_a:<44} {medians[0]:>12,.1f} {unit}")
    print(f"  {name_b:<44} {medians[1]:>12,.1f} {unit}")
    print(f"  ratio {ratio:.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f} in {rounds} pairs)")
    return ratio
