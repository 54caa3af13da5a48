"""Cells of a matrix: what a run tried in every combination, and the heat map of it.

A journal line is a cell when it, or its ``value``, has ``cell`` (the cell's name, ``in=cpu,out=gpu:0,...``) and
``outcome``. What else it may have: ``axes`` (name -> value; else they are read from the name), ``expected``,
``evidence``, ``ms``, ``reproduce`` (a command).
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .plain import mapping, number, text_of

if TYPE_CHECKING:
    from ..runner import Result

WORST_FIRST = ("fail", "unexpected_pass", "unknown", "known", "skipped", "pass")
WORDS = {"unexpected_pass": "unexpected pass", "known": "known defect"}
NEEDS_A_LOOK = ("fail", "unexpected_pass", "unknown")
_ROLES = {  # an axis is known by one of these names
    "input": ("in", "input", "input_place", "given"),
    "model": ("model", "model_device", "device", "on", "computed_on"),
    "output": ("out", "output", "output_place", "asked"),
}


@dataclass(frozen=True)
class Cell:
    """One combination and how it went. ``expected`` is what was to be seen; ``ms`` how long it took, if known."""

    name: str
    axes: Mapping[str, str]
    outcome: str
    expected: str
    evidence: Any
    ms: float | None
    reproduce: str

    @property
    def bad(self) -> bool:
        """Whether somebody has to look at it."""
        return self.outcome in NEEDS_A_LOOK

    @property
    def word(self) -> str:
        """The outcome for people."""
        return WORDS.get(self.outcome, self.outcome)


def cells_of(events: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """The cells of a journal; of two lines about one cell the last counts."""
    found: dict[str, Cell] = {}
    for event in events:
        inner = event if "cell" in event else mapping(event.get("value"))
        name = text_of(inner.get("cell"))
        if name and "outcome" in inner:
            found.pop(name, None)
            found[name] = _cell(name, inner)
    return list(found.values())


def cells_in(result: Result) -> list[Cell]:
    """Those that the scenario itself names, a crashed one among them; else those of the journal."""
    told = result.facts.get("cells")
    return cells_of(told if isinstance(told, list) else result.run.ended.events)


def _cell(name: str, line: Mapping[str, Any]) -> Cell:
    outcome = text_of(line["outcome"])
    axes = {str(axis): str(value) for axis, value in mapping(line.get("axes")).items()}
    return Cell(
        name=name,
        axes=axes or _axes_in(name),
        outcome=outcome if outcome in WORST_FIRST else "unknown",
        expected=str(line.get("expected") or ""),
        evidence=line.get("evidence"),
        ms=number(line.get("ms")),
        reproduce=text_of(line.get("reproduce")),
    )


def _axes_in(name: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in name.split(","))
    return {axis.strip(): value.strip() for axis, equals, value in pairs if equals and axis.strip()}


def command_of(cell: Cell, scenario: str) -> str:
    """The command that runs this cell alone."""
    return cell.reproduce or f"tritoncapi-harness {scenario} --only {shlex.quote(cell.name)}"


def worst(outcomes: Iterable[str]) -> str:
    """The outcome that counts where several are shown as one."""
    present = set(outcomes)
    return next((outcome for outcome in WORST_FIRST if outcome in present), "unknown")


@dataclass(frozen=True)
class Spot:
    """A field of the heat map: the numbers of the cells that fall on it."""

    row: int
    column: int
    cells: Sequence[int]
    outcome: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class HeatMap:
    """Rows (combinations of ``row_axes``) by columns (values of ``column_axis``); the other axes are filters."""

    row_axes: Sequence[str]
    column_axis: str
    rows: Sequence[tuple[str, ...]]
    columns: Sequence[str]
    spots: Mapping[tuple[int, int], Spot]
    filters: Mapping[str, Sequence[str]]


def heat_map(cells: Sequence[Cell]) -> HeatMap:
    """Input place and model device by output place, where there are such axes; else the first axis by the last."""
    axes = list(dict.fromkeys(axis for cell in cells for axis in cell.axes))
    row_axes, column_axis = _sides(axes, cells)
    keys = [tuple(cell.axes.get(axis, "-") for axis in row_axes) for cell in cells]
    rows = sorted(set(keys), key=lambda row: [_place_order(value) for value in row])
    columns = sorted({cell.axes.get(column_axis, "-") for cell in cells}, key=_place_order)
    row_at, column_at = ({value: n for n, value in enumerate(side)} for side in (rows, columns))
    fields: dict[tuple[int, int], list[int]] = {}
    for index, (cell, key) in enumerate(zip(cells, keys, strict=True)):
        fields.setdefault((row_at[key], column_at[cell.axes.get(column_axis, "-")]), []).append(index)
    spots = {}
    for (row, column), members in sorted(fields.items()):
        counts = Counter(cells[index].outcome for index in members)
        ordered = sorted(members, key=lambda index: (WORST_FIRST.index(cells[index].outcome), cells[index].name))
        spots[row, column] = Spot(row, column, ordered, worst(counts), counts)
    others = [axis for axis in axes if axis not in row_axes and axis != column_axis]
    filters = {axis: sorted({cell.axes.get(axis, "-") for cell in cells}, key=_place_order) for axis in others}
    filters = {axis: values for axis, values in filters.items() if len(values) > 1}
    return HeatMap(row_axes, column_axis, rows, columns, spots, filters)


def _sides(axes: Sequence[str], cells: Sequence[Cell]) -> tuple[list[str], str]:
    named = {role: next((axis for axis in names if axis in axes), "") for role, names in _ROLES.items()}
    if named["output"] and (named["input"] or named["model"]):
        return [axis for axis in (named["input"], named["model"]) if axis], named["output"]
    varying = [axis for axis in axes if len({cell.axes.get(axis, "-") for cell in cells}) > 1] or list(axes)
    return varying[:1], varying[-1] if len(varying) > 1 else ""


def _place_order(value: str) -> tuple[int, str, int]:
    """The CPU before pinned memory before the GPUs by number, then everything else."""
    known = {"cpu": 0, "pinned": 1}
    word, _, digits = value.partition(":")
    if word == "gpu":
        return (2, "", int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1)
    return (known.get(value, 3), value, 0)
