"""Which cells are run: what cannot be is left out and counted, and of the rest every pair of values is in a cell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._matrix_axes import VALUES, Cell, Filter, Reason
from ._matrix_known import Known

Axes = Mapping[str, Sequence[str]]
Pair = tuple[str, str, str, str]
"""Axis, value, axis, value; the axes in their order."""

WEAK = ("size", "0")
"""An empty tensor says little about the cell's other values, so it does not stand for their pairs."""


@dataclass(frozen=True)
class Choice:
    """The cells to run. ``nominal`` cells are those of all values; ``left_out`` counts those that cannot be run, by
    reason, ``spared`` those that only the full matrix has."""

    cells: Sequence[Cell]
    nominal: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    spared: Mapping[str, int] = field(default_factory=dict)
    pairs: int = 0
    pairs_impossible: int = 0

    @property
    def possible(self) -> int:
        """How many cells could be run."""
        return self.nominal - sum(self.left_out.values())


def narrowed(axes: Axes, only: Sequence[Filter]) -> dict[str, list[str]]:
    """The axes with the values that every filter lets pass."""
    return {
        axis: [value for value in values if all(each.fits(axis, value) for each in only)]
        for axis, values in axes.items()
    }


def choose(
    axes: Axes,
    reasons: Sequence[Reason],
    known: Sequence[Known],
    version: tuple[int, int],
    *,
    full: bool = False,
    spared: Sequence[Reason] = (),
) -> Choice:
    """All possible cells, or a choice of them in which every possible pair of values occurs.

    ``spared`` are cells that only the full matrix has, unless there are no others. A cell that is expected to fail
    proves nothing of its other pairs: the pairs are covered by cells that are expected to pass, and of each known
    failure there is one cell besides.
    """
    nominal = math.prod(map(len, axes.values()))
    left_out = count(axes, reasons)
    if full:
        cells = list(possible(axes, reasons))
        return Choice(cells, nominal, left_out)
    sparing = [*reasons, *spared]
    if complete(axes, sparing) is None:
        sparing = list(reasons)
    spares = {why: number for why, number in count(axes, sparing).items() if why not in left_out}
    reasons = sparing
    failing = [Reason(row.cells, row.name) for row in known if _is_of(row, version)]
    passing = [*reasons, *failing]
    chosen = list(_pairwise(_without_weak(axes), passing, 2))
    if WEAK[1] in axes[WEAK[0]]:
        chosen += _pairwise({**axes, WEAK[0]: [WEAK[1]]}, passing, 1)
    covered = {pair for cell in chosen for pair in pairs_of(cell)}
    impossible = 0
    for pair in all_pairs(axes):  # what the library may have missed, and what nothing can cover
        if pair in covered:
            continue
        cell = complete({**axes, pair[0]: [pair[1]], pair[2]: [pair[3]]}, passing)
        if cell is None:
            impossible += 1
        else:
            chosen.append(cell)
            covered.update(pairs_of(cell))
    for row in failing:
        cell = complete(narrowed(axes, [row.cells]), reasons)
        if cell is not None and cell not in chosen:
            chosen.append(cell)
    return Choice(chosen, nominal, left_out, spares, len(covered), impossible)


def _is_of(row: Known, version: tuple[int, int]) -> bool:
    return not ((row.since and version < row.since) or (row.until and version > row.until))


def _without_weak(axes: Axes) -> Axes:
    axis, weak = WEAK
    rest = [value for value in axes[axis] if value != weak]
    return {**axes, axis: rest} if rest else axes


def _pairwise(axes: Axes, reasons: Sequence[Reason], strength: int) -> Iterator[Cell]:
    if complete(axes, reasons) is None:
        return
    import covertable  # noqa: PLC0415 - in the child only

    constraints = [_constraint(axes, row.cells) for row in reasons]
    for row in covertable.make(axes, strength=strength, constraints=constraints):
        cell = {axis: row[axis] for axis in axes}
        assert not any(each.cells.matches(cell) for each in reasons)
        yield cell


def _constraint(axes: Axes, cells: Filter) -> dict[str, Any]:
    """Not one of these cells, in the library's words: another value on one of the axes."""
    others = [
        {
            "operator": "in",
            "left": axis,
            "values": [value for value in axes[axis] if not cells.fits(axis, value)],
        }
        for axis in cells.values
    ]
    return {"operator": "or", "conditions": others}


def complete(axes: Axes, reasons: Sequence[Reason]) -> Cell | None:
    """The first possible cell of these axes, or None."""
    return next(possible(axes, reasons), None)


def possible(axes: Axes, reasons: Sequence[Reason]) -> Iterator[Cell]:
    """All possible cells of these axes, in their order."""
    # A reason is looked at where the last of its axes gets a value: what it rules out is not walked through.
    order = list(axes)
    due: dict[str, list[Filter]] = {axis: [] for axis in order}
    for row in reasons:
        due[max(row.cells.values, key=order.index)].append(row.cells)

    def walk(at: int, cell: dict[str, str]) -> Iterator[Cell]:
        if at == len(order):
            yield dict(cell)
            return
        axis = order[at]
        for value in axes[axis]:
            cell[axis] = value
            if not any(each.matches(cell) for each in due[axis]):
                yield from walk(at + 1, cell)
        cell.pop(axis, None)

    return walk(0, {})


def count(axes: Axes, reasons: Sequence[Reason]) -> dict[str, int]:
    """How many cells are left out for each reason; a cell counts for the first that holds."""
    named = [axis for axis in axes if any(axis in row.cells.values for row in reasons)]
    others = math.prod(len(values) for axis, values in axes.items() if axis not in named)
    found: dict[str, int] = {}
    for values in itertools.product(*(axes[axis] for axis in named)):
        cell = dict(zip(named, values, strict=True))
        why = next((row.why for row in reasons if row.cells.matches(cell)), None)
        if why is not None:
            found[why] = found.get(why, 0) + others
    return found


def pairs_of(cell: Cell) -> Iterator[Pair]:
    """The pairs of values in a cell."""
    for (one, this), (other, that) in itertools.combinations(((axis, cell[axis]) for axis in VALUES), 2):
        yield one, this, other, that


def all_pairs(axes: Axes) -> Iterator[Pair]:
    """All pairs of values of these axes."""
    for one, other in itertools.combinations(VALUES, 2):
        for this, that in itertools.product(axes[one], axes[other]):
            yield one, this, other, that
